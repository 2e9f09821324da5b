"""k-means of a class that is larger than a worker: the rows stay where they are, in shares.

Workers hold ranges of the class's rows, in memory as far as they fit and in memory-mapped shards
beyond, and answer with sums, counts and the objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.backends import BackendName
from clustering.bundle import BundleResult, BundleWork, check_rows
from clustering.kmeans import Group, kmeans_of_shares
from clustering.shares import CHUNK_ROWS, Share
from data_shards.embeddings import EmbeddingShards

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class ShareWork:
    """A range of the rows of a class, for one worker to hold."""

    folder: str
    """The embedding shards, by a path that every worker sees."""
    class_: int
    positions: npt.NDArray[np.integer]
    """Row numbers in the embedding shards; may be empty."""
    first_row: int
    """Where the range begins in the class."""
    memory_bytes: float
    """Of rows to hold; the others are read anew in each iteration."""
    backend: BackendName


def divide(work: BundleWork, num_workers: int) -> list[ShareWork]:
    """Divide the rows of a class evenly, by whole chunks.

    Args:
        work: a bundle of one class.
        num_workers: number of shares, >= 1; some are empty if there are fewer chunks.
    """
    num_chunks = -(-len(work.positions) // CHUNK_ROWS)
    ends = [
        min(num_chunks * (number + 1) // num_workers * CHUNK_ROWS, len(work.positions))
        for number in range(num_workers)
    ]
    return [
        ShareWork(
            folder=work.folder,
            class_=int(work.classes[0]),
            positions=work.positions[start:end],
            first_row=start,
            memory_bytes=work.config.memory_mib_per_worker * _MIB,
            backend=work.backend,
        )
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def open_share(work: ShareWork) -> Share:
    """The share, with its rows still on the disk; reading checks that they are unit vectors."""
    shards = EmbeddingShards.open(work.folder, verify=False)

    def read(first: int, end: int) -> npt.NDArray[np.float32]:
        positions = work.positions[first:end]
        rows = shards.rows(positions.astype(np.int64))
        check_rows(rows, positions, folder=work.folder, class_of=lambda row: work.class_)
        return rows

    return Share(
        read,
        len(work.positions),
        first_row=work.first_row,
        backend=work.backend,
        memory_bytes=work.memory_bytes,
    )


def cluster_shares(work: BundleWork, group: Group) -> BundleResult:
    """Cluster the one class of a bundle, whose rows a group holds.

    Raises:
        ClusterError: when an embedding is not a finite vector of length 1.
    """
    result = kmeans_of_shares(
        group,
        int(work.num_clusters[0]),
        config=work.config,
        seed=work.class_seed(0),
        warm=work.class_warm(0),
    )
    return BundleResult(
        class_of=np.repeat(work.classes, len(result.centroids)),
        centroids=result.centroids,
        spread=result.spread,
        concentration=result.concentration,
        assignment=result.assignment,
        iterations=result.iterations,
        seconds=group.seconds,
    )
