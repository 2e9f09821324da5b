"""The `cluster` section of a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from clustering.settings import MAY_CHANGE
from data_shards.errors import require

Init = Literal["random", "kmeans++", "warm"]
"""What k-means starts from."""

Backend = Literal["auto", "faiss-cpu", "faiss-gpu", "torch-gpu"]
"""Who compares rows with centroids."""

TransportChoice = Literal["auto", "object_store", "shared_files"]
"""How rows reach their worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """How each class is divided into clusters, and by how many workers."""

    target_size: int = 200
    """Wanted mean size of a cluster. A class of n samples gets max(1, round(n / this)) clusters."""

    max_per_class: int = 0
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

    listed_neighbours: int = 32
    """Nearest clusters of other classes to list for each cluster."""

    listed_siblings: int = 8
    """Nearest clusters of the same class to list for each cluster."""

    exact_neighbours: int = 50_000
    """Up to so many clusters of a task their lists of neighbours are exact. Beyond, one or two per
    cent of the neighbours are not the nearest, and the search takes a fraction of the time."""

    backend: Backend = "auto"
    """Who compares samples with centroids: FAISS on the CPU, FAISS or torch on a GPU. auto = the
    first of faiss-gpu, torch-gpu, faiss-cpu that works where Ray has GPUs. The Ray that clmle run
    starts has them only with launch.embed_gpus > 0."""

    memory_mib_per_worker: int = field(default=1024, metadata=MAY_CHANGE)
    """Embeddings that a worker may hold, in MiB. A class that is larger is divided over workers,
    and what exceeds the memory of all is read anew in each iteration."""

    transport: TransportChoice = field(default="auto", metadata=MAY_CHANGE)
    """How embeddings reach the worker that clusters them: read by it from the shared file system,
    or read once by any worker and sent through Ray's object store. auto = the object store if Ray
    has several machines, shared files on one."""

    num_workers: int = field(default=0, metadata=MAY_CHANGE)
    """Ray workers, of one CPU each, to spread the classes over. 0 = every CPU of the cluster."""

    task_timeout_seconds: float = field(default=600.0, metadata=MAY_CHANGE)
    """A worker that takes longer over its share of the classes is given up, the share retried. The
    time of a share begins anew whenever one that was sent before it is done: waiting for a CPU of
    Ray is no delay while others make progress."""

    max_retries: int = field(default=3, metadata=MAY_CHANGE)
    """How often a share of the classes is tried again after a lost or late worker."""

    def __post_init__(self) -> None:
        for name in ("target_size", "iterations", "min_cluster_size", "memory_mib_per_worker"):
            _require(getattr(self, name) >= 1, name, ">= 1", getattr(self, name))
        for name in (
            "max_per_class",
            "listed_neighbours",
            "listed_siblings",
            "exact_neighbours",
            "num_workers",
            "max_retries",
        ):
            _require(getattr(self, name) >= 0, name, ">= 0", getattr(self, name))
        for name, choices in (("init", Init), ("backend", Backend), ("transport", TransportChoice)):
            chosen = getattr(self, name)
            allowed = get_args(choices)
            _require(chosen in allowed, name, f"one of {', '.join(allowed)}", chosen)
        _require(self.tolerance >= 0, "tolerance", ">= 0", self.tolerance)
        _require(not self.balance or self.balance >= 1, "balance", "0 or >= 1", self.balance)
        timeout = self.task_timeout_seconds
        _require(timeout > 0, "task_timeout_seconds", "> 0", timeout)


def _require(condition: bool, name: str, expected: str, got: object) -> None:
    require(condition, f"cluster.{name}", expected, got)
