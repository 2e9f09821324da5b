"""The work of a table, and who may do it; done here by this process, in `ray_workers` by Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clustering.config import ClusterConfig
from clustering.execution.partitioned_kmeans import (
    cluster_partitions,
    open_partition,
    partition_class,
)
from clustering.execution.transport import Transport
from clustering.kmeans.backends import BackendName, choose_backend, one_thread
from clustering.kmeans.bundle import BundleResult, BundleWork, cluster_bundle, cluster_classes
from clustering.kmeans.partitions import LocalPartitions
from data_shards.features.embedding_shard import EmbeddingShardInfo, check_vectors


@dataclass(frozen=True, kw_only=True)
class WorkList:
    """All the work of a table."""

    folder: str
    """The embedding shards, by a path that every worker sees."""
    shards: tuple[EmbeddingShardInfo, ...]
    """Those whose vectors have not been compared with their checksums yet."""
    dim: int
    partitioned: Sequence[BundleWork]
    """Bundles of a single class each, which several workers cluster together."""
    num_partitions: Mapping[int, int]
    """Of each of these classes; the clusters do not depend on it."""
    bundles: Sequence[BundleWork]
    """All other classes."""
    transport: Transport

    @property
    def num_classes(self) -> int:
        """Of all the work."""
        return sum(len(work.classes) for work in (*self.partitioned, *self.bundles))

    @property
    def waves(self) -> list[list[int]]:
        """Bundles, by number, whose rows go through the object store together."""
        return self.transport.waves([4 * self.dim * len(work.positions) for work in self.bundles])


Done = tuple[BundleWork, BundleResult]
"""A bundle, or a partitioned class, and its clusters."""


class Workers(Protocol):
    """The workers that cluster."""

    @property
    def num_workers(self) -> int:
        """Bundles that are clustered at a time."""

    @property
    def num_nodes(self) -> int:
        """Machines that the workers are on."""

    @property
    def object_store_bytes(self) -> int:
        """Size of all their object stores together; 0 if they have none."""

    @property
    def backend(self) -> BackendName:
        """What compares rows with centroids, the same for all workers."""

    @property
    def seconds(self) -> float:
        """Time that all workers have spent on checking and moving rows."""

    def run(self, works: WorkList) -> Iterator[Done]:
        """Do all the work; yields every bundle and partitioned class once, in any order.

        Raises:
            ClusterError: when something fails by itself, or is lost or late too often.
            DataError: when a shard is damaged or cannot be read.
        """


class LocalWorker:
    """This process, one class after the other."""

    num_workers = 1
    num_nodes = 1
    object_store_bytes = 0
    seconds = 0.0

    def __init__(self, config: ClusterConfig) -> None:
        """Choose the backend.

        Raises:
            ClusterError: when the one of the settings does not work here.
        """
        self.backend: BackendName = choose_backend(config.backend)

    def run(self, works: WorkList) -> Iterator[Done]:
        """See `Workers`. Rows beyond the memory of a worker are read again when needed."""
        check_shards(works.folder, works.shards)
        for work in works.partitioned:
            (whole,) = partition_class(work, 1)
            with one_thread():
                partitions = LocalPartitions(
                    (open_partition(whole),), len(work.positions), works.dim
                )
                yield work, cluster_partitions(work, partitions)
        for work in works.bundles:
            yield work, cluster_bundle(work)


class ArrayWorker(LocalWorker):
    """This process, where the embeddings are an array in memory: no file is read."""

    def __init__(self, config: ClusterConfig, embeddings: npt.NDArray[np.float32]) -> None:
        """Choose the backend.

        Args:
            config: the backend.
            embeddings: (N, D) float32 rows, by row number.

        Raises:
            ClusterError: when the backend of the settings does not work here.
        """
        super().__init__(config)
        self._embeddings = embeddings

    def run(self, works: WorkList) -> Iterator[Done]:
        """See `Workers`. A class that the plan would partition fits in memory here."""
        for work in (*works.partitioned, *works.bundles):
            yield work, cluster_classes(self._embeddings.__getitem__, work)


def check_shards(folder: str, shards: Sequence[EmbeddingShardInfo]) -> float:
    """Compare files of vectors with their checksums; the seconds that it took.

    Raises:
        DataError: when a file is damaged or cannot be read.
    """
    started = time.monotonic()
    for shard in shards:
        check_vectors(folder, shard)
    return time.monotonic() - started
