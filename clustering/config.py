"""The `cluster` section of a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """How each class is divided into clusters, and by how many workers."""

    samples_per_cluster: int = 200
    """Wanted mean size of a cluster. A class of n samples gets max(1, round(n / this)) clusters."""

    max_clusters_per_class: int = 0
    """At most this many clusters of a class; fewer suit few, overlapping classes. 0 = no limit."""

    iterations: int = 20
    """Iterations of k-means."""

    neighbours: int = 32
    """Nearest clusters of other classes to list for each cluster."""

    siblings: int = 8
    """Nearest clusters of the same class to list for each cluster."""

    num_workers: int = 0
    """Ray workers, of one CPU each, to spread the classes over. 0 = every CPU of the cluster."""

    task_timeout_seconds: float = 600.0
    """A worker that takes longer over its share of the classes is given up, the share retried."""

    max_retries: int = 3
    """How often a share of the classes is tried again after a lost or late worker."""

    def __post_init__(self) -> None:
        for name in ("samples_per_cluster", "iterations"):
            _require_at_least(name, getattr(self, name), 1)
        for name in (
            "max_clusters_per_class",
            "neighbours",
            "siblings",
            "num_workers",
            "max_retries",
        ):
            _require_at_least(name, getattr(self, name), 0)
        if not self.task_timeout_seconds > 0:
            raise ValueError(
                f"cluster.task_timeout_seconds must be > 0, got {self.task_timeout_seconds}"
            )


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"cluster.{name} must be >= {least}, got {value}")
