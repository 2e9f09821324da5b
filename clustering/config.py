"""The `cluster` section of a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Init = Literal["random", "kmeans++", "warm"]
"""What k-means starts from."""

Backend = Literal["auto", "faiss-cpu", "faiss-gpu", "torch-gpu"]
"""Who compares rows with centroids."""

TransportChoice = Literal["auto", "object_store", "shared_files"]
"""How rows reach their worker."""

NOT_DECIDING = (
    *("num_workers", "memory_mib_per_worker", "transport"),
    *("task_timeout_seconds", "max_retries"),
)
"""Settings that say who computes, when and how long, not what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """How each class is divided into clusters, and by how many workers."""

    samples_per_cluster: int = 200
    """Wanted mean size of a cluster. A class of n samples gets max(1, round(n / this)) clusters."""

    max_clusters_per_class: int = 0
    """At most this many clusters of a class; fewer suit few, overlapping classes. 0 = no limit."""

    iterations: int = 20
    """Iterations of k-means, at most."""

    tolerance: float = 1e-4
    """k-means of a class ends early when an iteration raises the mean cosine of samples and
    centroids by no more than this share of it. 0 = only when nothing is gained."""

    init: Init = "random"
    """What k-means starts from: random samples, samples far from each other (kmeans++), or the
    class's centroids of the table before (warm; random for the first table)."""

    min_cluster_size: int = 1
    """The samples of a smaller cluster go to the nearest others of the class, unless it is the
    largest of its class."""

    balance: float = 0.0
    """Bound of the largest cluster of a class, as a multiple of the mean size; samples that lose
    the least go to other clusters. 0 = no bound, otherwise >= 1."""

    neighbours: int = 32
    """Nearest clusters of other classes to list for each cluster."""

    siblings: int = 8
    """Nearest clusters of the same class to list for each cluster."""

    exact_neighbours: int = 50_000
    """Up to so many clusters of a task their lists of neighbours are exact. Beyond, one or two per
    cent of the neighbours are not the nearest, and the search takes a fraction of the time."""

    backend: Backend = "auto"
    """Who compares samples with centroids: FAISS on the CPU, FAISS or torch on a GPU. auto = the
    first of faiss-gpu, torch-gpu, faiss-cpu that works where Ray has GPUs. The Ray that clmle run
    starts has them only with launch.embed_gpus > 0."""

    memory_mib_per_worker: int = 1024
    """Embeddings that a worker may hold, in MiB. A class that is larger is divided over workers,
    and what exceeds the memory of all is read anew in each iteration."""

    transport: TransportChoice = "auto"
    """How embeddings reach the worker that clusters them: read by it from the shared file system,
    or read once by any worker and sent through Ray's object store. auto = the object store if Ray
    has several machines, shared files on one."""

    num_workers: int = 0
    """Ray workers, of one CPU each, to spread the classes over. 0 = every CPU of the cluster."""

    task_timeout_seconds: float = 600.0
    """A worker that takes longer over its share of the classes is given up, the share retried. The
    time of a share begins anew whenever one that was sent before it is done: waiting for a CPU of
    Ray is no delay while others make progress."""

    max_retries: int = 3
    """How often a share of the classes is tried again after a lost or late worker."""

    def __post_init__(self) -> None:
        for name in (
            "samples_per_cluster",
            "iterations",
            "min_cluster_size",
            "memory_mib_per_worker",
        ):
            _require_at_least(name, getattr(self, name), 1)
        for name in (
            "max_clusters_per_class",
            "neighbours",
            "exact_neighbours",
            "siblings",
            "num_workers",
            "max_retries",
        ):
            _require_at_least(name, getattr(self, name), 0)
        for name, choices in (
            ("init", Init),
            ("backend", Backend),
            ("transport", TransportChoice),
        ):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(
                    f"cluster.{name} must be one of {', '.join(get_args(choices))}, "
                    f"got {getattr(self, name)}"
                )
        if not self.tolerance >= 0:
            raise ValueError(f"cluster.tolerance must be >= 0, got {self.tolerance}")
        if self.balance and not self.balance >= 1:
            raise ValueError(f"cluster.balance must be 0 or >= 1, got {self.balance}")
        if not self.task_timeout_seconds > 0:
            raise ValueError(
                f"cluster.task_timeout_seconds must be > 0, got {self.task_timeout_seconds}"
            )


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"cluster.{name} must be >= {least}, got {value}")
