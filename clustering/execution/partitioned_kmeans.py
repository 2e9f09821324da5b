"""k-means of a class that is partitioned: the rows stay where they are.

A partition is a range of the class's rows, in memory as far as they fit and in memory-mapped shards
beyond. Whoever computes on it answers with what has changed in sums, counts and the objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.kmeans.backends import BackendName
from clustering.kmeans.bundle import BundleResult, BundleWork, check_rows
from clustering.kmeans.one_class import kmeans_of_partitions
from clustering.kmeans.partitions import (
    CHUNK_ROWS,
    Partition,
    Partitions,
    ReadRange,
    partition_ends,
)
from data_shards.features.embeddings import EmbeddingShards

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class PartitionWork:
    """A range of the rows of a class, for one worker to hold."""

    folder: str
    """The embedding shards, by a path that every worker sees."""
    class_: int
    positions: npt.NDArray[np.integer]
    """Row numbers in the embedding shards; may be empty."""
    first_row: int
    """Where the range begins in the class."""
    memory_bytes: float
    """Of rows to hold; the others are read again in each iteration."""
    backend: BackendName

    def __str__(self) -> str:
        return (
            f"a partition of class {self.class_}, {len(self.positions):,} samples from its "
            f"{self.first_row:,}th on"
        )

    def num_held(self, dim: int) -> int:
        """Rows to hold: the first ones, by whole chunks unless they are all."""
        rows = int(min(self.memory_bytes // (4 * dim), len(self.positions)))
        return rows if rows == len(self.positions) else rows // CHUNK_ROWS * CHUNK_ROWS


def partition_class(work: BundleWork, num_partitions: int) -> list[PartitionWork]:
    """Partition the rows of a class evenly, by whole chunks.

    Args:
        work: a bundle of one class.
        num_partitions: >= 1; some are empty if there are fewer chunks.
    """
    ends = partition_ends(len(work.positions), num_partitions).tolist()
    return [
        PartitionWork(
            folder=work.folder,
            class_=int(work.classes[0]),
            positions=work.positions[start:end],
            first_row=start,
            memory_bytes=work.config.memory_mib_per_worker * _MIB,
            backend=work.backend,
        )
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def open_partition(work: PartitionWork) -> Partition:
    """The partition, with its rows still on disk; reading checks that they are unit vectors."""
    return Partition(
        partition_reader(work),
        len(work.positions),
        first_row=work.first_row,
        backend=work.backend,
        memory_bytes=work.memory_bytes,
    )


def partition_reader(work: PartitionWork) -> ReadRange:
    """A function that reads rows of a partition from the embedding shards.

    It opens the shards when first called, and raises ClusterError for an embedding that is not a
    finite vector of length 1.
    """
    shards: list[EmbeddingShards] = []

    def read(first: int, end: int) -> npt.NDArray[np.float32]:
        if not shards:
            shards.append(EmbeddingShards.open_checked(work.folder))
        rows = shards[0].rows(work.positions[first:end])
        check_partition_rows(work, rows, first)
        return rows

    return read


def check_partition_rows(work: PartitionWork, rows: npt.NDArray[np.float32], first: int) -> None:
    """Refuse rows of a partition that are not finite vectors of length 1.

    Args:
        work: the partition.
        rows: some of its rows, in order.
        first: number of the first of them in the partition.

    Raises:
        ClusterError: naming the first such row.
    """
    check_rows(
        rows,
        work.positions[first : first + len(rows)],
        folder=work.folder,
        class_of=lambda row: work.class_,
    )


def cluster_partitions(work: BundleWork, partitions: Partitions) -> BundleResult:
    """Cluster the one class of a bundle, whose rows are in partitions.

    Raises:
        ClusterError: when an embedding is not a finite vector of length 1.
    """
    result = kmeans_of_partitions(
        partitions,
        int(work.num_clusters[0]),
        config=work.config,
        seed=work.class_seed(0),
        previous=work.class_previous(0),
    )
    return BundleResult(
        class_of=np.repeat(work.classes, len(result.centroids)),
        centroids=result.centroids,
        spread=result.spread,
        concentration=result.concentration,
        assignment=result.assignment,
        iterations=result.iterations,
        seconds=partitions.seconds,
    )
