"""The `cluster` section of a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from clustering.initialisation import INITIALISATIONS
from clustering.settings import MAY_CHANGE
from data_shards.errors import require

Backend = Literal["auto", "faiss-cpu", "faiss-gpu", "torch-gpu"]
"""What compares rows with centroids."""

TransportChoice = Literal["auto", "object_store", "shared_files"]
"""How rows reach the worker that clusters them."""

_AT_LEAST_ONE = ("target_size", "iterations", "min_cluster_size", "memory_mib_per_worker")
_AT_LEAST_ZERO = (
    *("max_per_class", "listed_neighbours", "listed_siblings", "exact_neighbours"),
    *("num_workers", "max_retries", "tolerance"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """How each class is clustered, and by how many workers."""

    target_size: int = 200
    """Wanted mean size of a cluster. A class of n samples gets max(1, round(n / this)) clusters."""

    max_per_class: int = 0
    """Maximum number of clusters of a class; fewer suit few, overlapping classes. 0 = no limit."""

    iterations: int = 20
    """Maximum number of k-means iterations."""

    tolerance: float = 1e-4
    """k-means of a class stops early when an iteration raises the mean cosine of samples and
    centroids by no more than this fraction of it. 0 = only when nothing is gained."""

    init: str = "random"
    """How k-means chooses its first centroids: random (random samples), kmeans++ (samples far from
    each other) or warm (the class's centroids in the previous table; random for the first)."""

    min_cluster_size: int = 1
    """The samples of a smaller cluster go to the nearest other clusters of the class, unless it is
    the largest of its class."""

    balance: float = 0.0
    """Limit on the largest cluster of a class, as a multiple of the mean size; the samples that
    lose the least move to other clusters. 0 = no limit, otherwise >= 1."""

    listed_neighbours: int = 32
    """Nearest clusters of other classes to list for each cluster."""

    listed_siblings: int = 8
    """Nearest clusters of the same class to list for each cluster."""

    exact_neighbours: int = 50_000
    """Up to this many clusters of a task the neighbour lists are exact. With more, one or two per
    cent of the neighbours are not the nearest, and the search takes a fraction of the time."""

    backend: Backend = "auto"
    """What compares samples with centroids: FAISS on the CPU, FAISS or torch on a GPU. auto = the
    first of faiss-gpu, torch-gpu, faiss-cpu that works where Ray has GPUs. The Ray that clmle run
    starts has them only with launch.embed_gpus > 0."""

    memory_mib_per_worker: int = field(default=1024, metadata=MAY_CHANGE)
    """Embeddings that a worker may hold, in MiB. A larger class is partitioned over workers; what
    exceeds the memory of all of them is read again in each iteration."""

    transport: TransportChoice = field(default="auto", metadata=MAY_CHANGE)
    """How embeddings reach the worker that clusters them: shared_files (the worker reads them from
    the shared file system) or object_store (any worker reads them once and sends them through Ray's
    object store). auto = object_store if Ray has several machines, shared_files on one."""

    num_workers: int = field(default=0, metadata=MAY_CHANGE)
    """Ray workers, of one CPU each, that cluster at a time. 0 = every CPU of the cluster."""

    call_timeout_seconds: float = field(default=600.0, metadata=MAY_CHANGE)
    """Time limit of a Ray call (a bundle of classes, or a step of one partition); a late call is
    made again. The time starts over whenever a call that was sent earlier returns: waiting for a
    CPU of Ray is not being late as long as others make progress."""

    max_retries: int = field(default=3, metadata=MAY_CHANGE)
    """How often a call is made again after its worker was lost or late."""

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            _require(getattr(self, name) >= 1, name, ">= 1", getattr(self, name))
        for name in _AT_LEAST_ZERO:
            _require(getattr(self, name) >= 0, name, ">= 0", getattr(self, name))
        for name, choices in (
            ("init", tuple(INITIALISATIONS)),
            ("backend", get_args(Backend)),
            ("transport", get_args(TransportChoice)),
        ):
            chosen = getattr(self, name)
            _require(chosen in choices, name, f"one of {', '.join(choices)}", chosen)
        _require(not self.balance or self.balance >= 1, "balance", "0 or >= 1", self.balance)
        timeout = self.call_timeout_seconds
        _require(timeout > 0, "call_timeout_seconds", "> 0", timeout)


def _require(condition: bool, name: str, expected: str, got: object) -> None:
    require(condition, f"cluster.{name}", expected, got)
