"""Spherical k-means of one class.

The same rows, settings and seed give the same clusters to the last bit: in any process, with any
number of threads, however the rows are partitioned. Another kind of CPU, another backend or another
release of FAISS may round differently.

Legend: n rows of the class, D embedding, K clusters of the class.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from clustering.config import ClusterConfig
from clustering.initialisation import initial_centroids
from clustering.kmeans.backends import BackendName, one_thread
from clustering.kmeans.lloyd import (
    KMeansResult,
    final_centroids,
    has_settled,
    largest_allowed,
    mean_angles,
    moved_centroids,
    numbering,
    objectives,
)
from clustering.kmeans.partitions import LocalPartitions, Partition, Partitions
from clustering.kmeans.totals import Moves, Totals

_EXTRA_ITERATIONS = 4  # to re-seed empty clusters; with few duplicates one is enough
_SAME_COSINE = 1.0 - 1e-6  # of a row and its own centroid, up to rounding


def spherical_kmeans(
    rows: npt.NDArray[np.float32],
    num_clusters: int,
    *,
    config: ClusterConfig,
    seed: int,
    previous: npt.NDArray[np.float32] | None = None,
    backend: BackendName = "faiss-cpu",
) -> KMeansResult:
    """Cluster the rows of a class by direction: `kmeans_of_partitions` of a single one.

    Args:
        rows: (n, D) float32, finite unit rows.
        num_clusters: wanted K, 1 <= K <= n.
        config: iterations, tolerance, initialisation, smallest and largest cluster.
        seed: of the initialisation, >= 0.
        previous: (any, D) float32 centroids of the previous table; None without one.
        backend: what compares rows with centroids.

    Returns:
        At most `num_clusters` clusters.

    Raises:
        ValueError: when the number of clusters does not fit the rows.
    """
    rows = np.ascontiguousarray(rows)
    whole = Partition(lambda first, end: rows[first:end], len(rows), backend=backend)
    partitions = LocalPartitions((whole,), *rows.shape)
    with one_thread():
        return kmeans_of_partitions(
            partitions, num_clusters, config=config, seed=seed, previous=previous
        )


def kmeans_of_partitions(
    partitions: Partitions,
    num_clusters: int,
    *,
    config: ClusterConfig,
    seed: int,
    previous: npt.NDArray[np.float32] | None = None,
) -> KMeansResult:
    """Cluster a class by direction, by Lloyd's iterations over its partitions.

    An iteration gives each row to the nearest centroid; a cluster's centroid is then the direction
    of the mean of its members. A centroid without a row is re-seeded at the row that is farthest
    from its own centroid; where no row is far from its own, as with fewer distinct rows than
    clusters, it is dropped. After the last iteration the rows of clusters smaller than
    `min_cluster_size` go to the nearest other clusters, and clusters larger than `balance` allows
    give away the rows that lose the least.

    The centroids returned are the directions of the means of the members, so that a table's
    centroids, members and spreads fit together exactly; a row at a border may therefore be a
    little nearer to another centroid.

    Args:
        partitions: those of the class.
        num_clusters: wanted K, 1 <= K <= n.
        config: iterations, tolerance, initialisation, smallest and largest cluster.
        seed: of the initialisation, >= 0.
        previous: (any, D) float32 centroids of the previous table; None without one.

    Returns:
        At most `num_clusters` clusters.

    Raises:
        ValueError: when the number of clusters does not fit the rows.
    """
    if not 1 <= num_clusters <= partitions.num_rows:
        raise ValueError(
            f"the number of clusters must be in 1..{partitions.num_rows} for "
            f"{partitions.num_rows} rows, got {num_clusters}"
        )
    if num_clusters == 1:
        only = np.zeros((1, partitions.dim), dtype=np.float32)  # any centroid gets all rows
        return _describe(partitions, partitions.fold(Totals.__add__, "step", only), iterations=0)
    centroids = initial_centroids(
        config.init,
        partial(_take, partitions),
        partitions.num_rows,
        num_clusters,
        seed=seed,
        previous=previous,
    )
    totals, iterations = _iterate(partitions, centroids, config)
    return finish_kmeans(partitions, totals, config, iterations)


def finish_kmeans(
    partitions: Partitions, totals: Totals, config: ClusterConfig, iterations: int
) -> KMeansResult:
    """Do what follows the iterations: change clusters of a wrong size, number, describe.

    Args:
        partitions: those of the class, each row in its cluster.
        totals: of these clusters.
        config: smallest and largest cluster.
        iterations: made before.
    """
    totals = _dissolve_small(partitions, totals, config.min_cluster_size)
    if config.balance:
        totals = _bound_large(partitions, totals, config.balance)
    return _describe(partitions, totals, iterations)


def _iterate(
    partitions: Partitions, centroids: npt.NDArray[np.float32], config: ClusterConfig
) -> tuple[Totals, int]:
    """Iterate to the end; the totals of the rows' last clusters, and the iterations made."""
    before = -np.inf
    totals = Totals.nothing(*centroids.shape)
    for iteration in range(1, config.iterations + _EXTRA_ITERATIONS + 1):
        change = partitions.fold(Totals.__add__, "step", centroids)
        totals += change
        mean_cosine = totals.mean_cosine
        gain, before = mean_cosine - before, mean_cosine
        settled = has_settled(iteration, change.changed, gain, mean_cosine, config.tolerance)
        empty = np.flatnonzero(totals.counts == 0)
        last = settled or iteration >= config.iterations
        if last and not len(empty):
            break
        far = _far_rows(partitions, totals, len(empty))
        if last and not len(far):
            break
        centroids = moved_centroids(totals.sums, totals.counts, centroids)
        centroids[empty[: len(far)]] = far
    return totals, min(iteration, config.iterations)


def _far_rows(partitions: Partitions, totals: Totals, num_wanted: int) -> npt.NDArray[np.float32]:
    """(at most num_wanted, D) rows that are far from their centroids."""
    none = np.empty((0, partitions.dim), dtype=np.float32)
    if not num_wanted:
        return none
    answers = partitions.call("farthest", num_wanted, totals.counts, _SAME_COSINE)
    cosines, positions = (np.concatenate(column) for column in zip(*answers, strict=True))
    chosen = positions[np.lexsort((positions, cosines))[:num_wanted]]
    return _take(partitions, np.sort(chosen)) if len(chosen) else none


def _take(partitions: Partitions, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(E, D) rows by their ascending (E,) positions."""
    return np.concatenate([rows for rows in partitions.call("take", positions) if len(rows)])


def _dissolve_small(partitions: Partitions, totals: Totals, smallest: int) -> Totals:
    """Move the rows of too small clusters to the nearest of the others; the largest one stays."""
    counts = totals.counts
    small = (counts > 0) & (counts < smallest)
    small[np.argmax(counts)] = False
    if not small.any():
        return totals
    room = (counts > 0) & ~small
    return totals + _move(partitions, totals, limits=np.where(small, counts, 0), room=room)


def _bound_large(partitions: Partitions, totals: Totals, balance: float) -> Totals:
    """Move rows out of clusters that are too large, those first that lose the least.

    A cluster that has once been full takes no more rows, so each round fills one or is the last.
    """
    there = totals.counts > 0
    largest = largest_allowed(partitions.num_rows, int(np.count_nonzero(there)), balance)
    room = there & (totals.counts < largest)
    while (totals.counts > largest).any():
        excess = np.maximum(totals.counts - largest, 0)
        totals += _move(partitions, totals, limits=excess, room=room)
        room &= totals.counts < largest
    return totals


def _move(
    partitions: Partitions,
    totals: Totals,
    *,
    limits: npt.NDArray[np.int64],
    room: npt.NDArray[np.bool_],
) -> Totals:
    """Move rows out of clusters; returns what that changes."""
    nowhere = np.zeros(totals.sums.shape, dtype=np.float32)  # where a mean has no direction
    centroids = moved_centroids(totals.sums, totals.counts, nowhere)
    moves = Moves.of_all(partitions.call("moves", centroids, limits, room), limits)
    return partitions.fold(Totals.__add__, "move", moves.position, moves.target, *centroids.shape)


def _describe(partitions: Partitions, totals: Totals, iterations: int) -> KMeansResult:
    """Number the clusters that have members by the first of them, and describe them."""
    first = partitions.fold(np.minimum, "first_members", len(totals.counts))

    def read_first_members(clusters: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        positions = first[clusters]
        ascending = np.argsort(positions)
        rows = np.empty((len(clusters), partitions.dim), dtype=np.float32)
        rows[ascending] = _take(partitions, positions[ascending])
        return rows

    centroids, lengths = final_centroids(totals.sums, totals.counts, read_first_members)
    order, number_of = numbering(first)
    order = order[: np.count_nonzero(totals.counts)]  # clusters without members come last
    centroids, lengths, counts = centroids[order], lengths[order], totals.counts[order]
    assignments, angles = zip(*partitions.call("finish", centroids, number_of), strict=True)
    whole = np.array([partitions.num_rows])
    return KMeansResult(
        centroids=centroids,
        assignment=np.concatenate(assignments),
        spread=mean_angles(np.sum(angles, axis=0), counts),
        concentration=lengths.astype(np.float32),
        objective=float(objectives(lengths, counts, whole, np.array([0]))[0]),
        iterations=iterations,
    )
