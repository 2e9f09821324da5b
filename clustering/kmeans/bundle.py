"""What a worker does: read the embeddings of some classes and cluster each class.

Legend: B classes of the bundle, P samples of them, D embedding, m clusters found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.kmeans.backends import BackendName, one_thread, stays_on_cpu
from clustering.kmeans.lloyd import KMeansResult
from clustering.kmeans.one_class import spherical_kmeans
from clustering.kmeans.partitions import CHUNK_ROWS
from clustering.kmeans.small_classes import Means, class_means, cluster_small_classes
from data_shards.features.embedding_shard import DIVERGED
from data_shards.features.embeddings import EmbeddingShards

ReadRows = Callable[[npt.NDArray[np.integer]], npt.NDArray[np.float32]]
"""(P,) row numbers -> (P, D) those rows."""

_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class BundleWork:
    """Classes to cluster, and where their embeddings are."""

    folder: str
    """The embedding shards, by a path that every worker sees."""
    classes: npt.NDArray[np.int64]
    """(B,)"""
    class_sizes: npt.NDArray[np.int64]
    """(B,) samples of each class."""
    num_clusters: npt.NDArray[np.int64]
    """(B,) wanted clusters of each class."""
    positions: npt.NDArray[np.integer]
    """(P,) row numbers in the embedding shards, class after class."""
    config: ClusterConfig
    seed: int
    previous: tuple[npt.NDArray[np.float32], ...] | None = None
    """Centroids of each class in the previous table; None if k-means does not use them."""
    backend: BackendName = "faiss-cpu"

    def __str__(self) -> str:
        return (
            f"a bundle of {len(self.classes):,} classes (the first is {self.classes[0]}) and "
            f"{len(self.positions):,} samples"
        )

    def class_seed(self, number: int) -> int:
        """The seed of a class, which does not depend on the other classes of its bundle."""
        sequence = np.random.SeedSequence([self.seed, int(self.classes[number])])
        return int(sequence.generate_state(1)[0])

    def class_previous(self, number: int) -> npt.NDArray[np.float32] | None:
        """(any, D) centroids of a class in the previous table; None if they are not used."""
        return None if self.previous is None else self.previous[number]


@dataclass(frozen=True, kw_only=True)
class BundleResult:
    """The clusters of a bundle, class after class."""

    class_of: npt.NDArray[np.int64]
    """(m,) class of each cluster."""
    centroids: npt.NDArray[np.float32]
    """(m, D) unit rows."""
    spread: npt.NDArray[np.float32]
    """(m,) mean angle between members and centroid, in radians."""
    concentration: npt.NDArray[np.float32]
    """(m,) length of the mean of the members."""
    assignment: npt.NDArray[np.int32]
    """(P,) cluster of each of the work's positions, 0 .. m - 1."""
    iterations: int
    """Iterations made, by all classes together."""
    seconds: float
    """Time that workers spent on reading and arithmetic."""


def cluster_bundle(work: BundleWork) -> BundleResult:
    """Cluster the classes of a bundle; their vectors are read from memory-mapped shards.

    Raises:
        DataError: when a shard cannot be read.
        ClusterError: when an embedding is not a finite vector of length 1.
    """
    # The checksums have been compared before the work was sent out.
    shards = EmbeddingShards.open_checked(work.folder)
    return cluster_classes(lambda positions: shards.rows(positions.astype(np.int64)), work)


def cluster_classes(read_rows: ReadRows, work: BundleWork) -> BundleResult:
    """Cluster the classes of a bundle; memory holds one class, or several small ones, at a time.

    Args:
        read_rows: reads rows by their numbers.
        work: what to cluster.

    Raises:
        ClusterError: when an embedding is not a finite vector of length 1.
    """
    started = time.monotonic()
    result = _Output(work)
    ends = np.cumsum(work.class_sizes)
    with one_thread():
        for batch in _batches(work.class_sizes):
            part = slice(ends[batch.start] - work.class_sizes[batch.start], ends[batch.stop - 1])
            rows = read_rows(work.positions[part])
            check_rows(
                rows, work.positions[part], folder=work.folder, class_of=_class_namer(work, batch)
            )
            _cluster_batch(rows, work, batch, result)
    return result.finish(time.monotonic() - started)


def check_rows(
    rows: npt.NDArray[np.float32],
    positions: npt.NDArray[np.integer],
    *,
    folder: str,
    class_of: Callable[[int], int],
) -> None:
    """Refuse rows that are not finite vectors of length 1.

    Args:
        rows: (P, D).
        positions: (P,) their row numbers in the embedding shards.
        folder: the embedding shards.
        class_of: class of a row of `rows`.

    Raises:
        ClusterError: naming the class and the first such row.
    """
    squared = np.einsum("nd,nd->n", rows, rows)
    # A comparison with NaN is False, so this finds what is not finite too.
    good = np.abs(squared - 1.0) <= 2 * _UNIT_TOLERANCE
    if not good.all():
        first = int(np.argmin(good))
        raise ClusterError(
            f"{np.count_nonzero(~good)} of {len(rows)} embeddings are not finite vectors of "
            f"length 1, the first is row {positions[first]} of {folder}, of class "
            f"{class_of(first)}; {DIVERGED}"
        )


def _class_namer(work: BundleWork, batch: slice) -> Callable[[int], int]:
    def class_of(row: int) -> int:
        ends = np.cumsum(work.class_sizes[batch])
        return int(work.classes[batch][np.searchsorted(ends, row, side="right")])

    return class_of


def _batches(class_sizes: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Ranges of classes that are read together: as many as fit a chunk, at least one."""
    ends = np.cumsum(class_sizes)
    first = 0
    while first < len(class_sizes):
        before = ends[first] - class_sizes[first]
        end = int(np.searchsorted(ends, before + CHUNK_ROWS, side="right"))
        yield slice(first, max(end, first + 1))
        first = max(end, first + 1)


def _cluster_batch(
    rows: npt.NDArray[np.float32], work: BundleWork, batch: slice, output: _Output
) -> None:
    """Cluster classes whose rows lie one after the other."""
    sizes, counts = work.class_sizes[batch], work.num_clusters[batch]
    small = sizes <= CHUNK_ROWS
    single = small & (counts == 1)
    if single.any():
        means = class_means(_rows_of(rows, sizes, single), sizes[single])
        output.put_means(np.flatnonzero(single) + batch.start, means)
    small &= ~single & stays_on_cpu(work.backend, sizes, counts)
    numbers = np.flatnonzero(small) + batch.start
    if len(numbers):
        results = cluster_small_classes(
            _rows_of(rows, sizes, small),
            sizes[small],
            counts[small],
            config=work.config,
            seeds=[work.class_seed(number) for number in numbers.tolist()],
            previous=[work.class_previous(number) for number in numbers.tolist()],
        )
        for number, result in zip(numbers.tolist(), results, strict=True):
            output.put(number, result)
    ends = np.cumsum(sizes)
    for number in np.flatnonzero(~small & ~single).tolist():
        result = spherical_kmeans(
            rows[ends[number] - sizes[number] : ends[number]],
            int(counts[number]),
            config=work.config,
            seed=work.class_seed(batch.start + number),
            previous=work.class_previous(batch.start + number),
            backend=work.backend,
        )
        output.put(batch.start + number, result)


def _rows_of(
    rows: npt.NDArray[np.float32],
    sizes: npt.NDArray[np.int64],
    chosen: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float32]:
    """The rows of the chosen ones of some classes."""
    return rows if chosen.all() else rows[np.repeat(chosen, sizes)]


class _Output:
    """The result of a bundle, filled class by class, with room for all wanted clusters."""

    def __init__(self, work: BundleWork) -> None:
        self._work = work
        self._cluster_starts = np.cumsum(work.num_clusters) - work.num_clusters
        self._row_starts = np.cumsum(work.class_sizes) - work.class_sizes
        num_clusters = int(work.num_clusters.sum())
        self._centroids: npt.NDArray[np.float32] | None = None
        self._spread = np.full(num_clusters, np.nan, dtype=np.float32)
        self._concentration = np.empty(num_clusters, dtype=np.float32)
        self._assignment = np.zeros(len(work.positions), dtype=np.int32)
        self._iterations = 0

    def put_means(self, numbers: npt.NDArray[np.int64], means: Means) -> None:
        """Store the single cluster of some classes, given their numbers in the bundle."""
        starts = self._cluster_starts[numbers]
        self._all_centroids(means.centroids.shape[1])[starts] = means.centroids
        self._spread[starts] = means.spread
        self._concentration[starts] = means.concentration

    def put(self, number: int, result: KMeansResult) -> None:
        """Store the clusters of one class, given its number in the bundle."""
        start = self._cluster_starts[number]
        own = slice(start, start + len(result.centroids))
        self._all_centroids(result.centroids.shape[1])[own] = result.centroids
        self._spread[own] = result.spread
        self._concentration[own] = result.concentration
        first = self._row_starts[number]
        self._assignment[first : first + len(result.assignment)] = result.assignment
        self._iterations += result.iterations

    def finish(self, seconds: float) -> BundleResult:
        """The result, without the clusters that were dropped."""
        work = self._work
        there = ~np.isnan(self._spread)
        compact = (np.cumsum(there) - 1)[self._cluster_starts]
        return BundleResult(
            class_of=np.repeat(work.classes, work.num_clusters)[there],
            centroids=self._all_centroids(0)[there],
            spread=self._spread[there],
            concentration=self._concentration[there],
            assignment=self._assignment + np.repeat(compact.astype(np.int32), work.class_sizes),
            iterations=self._iterations,
            seconds=seconds,
        )

    def _all_centroids(self, dim: int) -> npt.NDArray[np.float32]:
        if self._centroids is None:
            self._centroids = np.empty((len(self._spread), dim), dtype=np.float32)
        return self._centroids
