"""Many small classes at once, to the last bit the clusters that `spherical_kmeans` makes of each.

The classes iterate side by side. Only comparing rows with centroids is a call for each class; every
other step is one operation on the rows, or the clusters, of all of them. What that does not cover
is left to `spherical_kmeans`: a class that meets an empty cluster, and clusters of a wrong size.
Classes of a single cluster need no k-means: it is their mean.

Legend: B classes, n rows of them all, D embedding, K clusters of them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clustering.config import ClusterConfig
from clustering.initialisation import initial_centroids
from clustering.kmeans.backends import Runs
from clustering.kmeans.exact_sums import (
    UNITS,
    angle_sums,
    change_of_sums,
    cluster_sums,
    in_units,
)
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
from clustering.kmeans.one_class import finish_kmeans, spherical_kmeans
from clustering.kmeans.partitions import LocalPartitions, Partition, PartitionState
from clustering.kmeans.totals import Totals


class Means(NamedTuple):
    """The one cluster of each of some classes."""

    centroids: npt.NDArray[np.float32]
    """(B, D) unit rows: the direction of the mean of the rows."""
    spread: npt.NDArray[np.float32]
    """(B,) mean angle between rows and centroid, in radians."""
    concentration: npt.NDArray[np.float32]
    """(B,) length of the mean of the rows, in [0, 1]."""


def class_means(rows: npt.NDArray[np.float32], sizes: npt.NDArray[np.int64]) -> Means:
    """Make a single cluster of each class, without a loop over the classes.

    Args:
        rows: (n, D) float32 unit rows, class after class; n <= 2^14.
        sizes: (B,) rows of each class, >= 1; B >= 1.
    """
    class_ = np.repeat(np.arange(len(sizes)), sizes)
    starts = _starts(sizes)
    sums = cluster_sums(in_units(rows), class_, len(sizes))
    centroids, lengths = final_centroids(sums, sizes, lambda classes: rows[starts[classes]])
    spread = mean_angles(angle_sums(rows, class_, centroids), sizes)
    return Means(centroids, spread, lengths.astype(np.float32))


def cluster_small_classes(  # noqa: PLR0913 - what `spherical_kmeans` takes, of each class
    rows: npt.NDArray[np.float32],
    sizes: npt.NDArray[np.int64],
    num_clusters: npt.NDArray[np.int64],
    *,
    config: ClusterConfig,
    seeds: Sequence[int],
    previous: Sequence[npt.NDArray[np.float32] | None],
) -> list[KMeansResult]:
    """Cluster each class by direction: `spherical_kmeans` of each.

    Args:
        rows: (n, D) float32, finite unit rows, class after class; n <= 2^14.
        sizes: (B,) rows of each class.
        num_clusters: (B,) wanted clusters of each class, 2 <= that <= its rows.
        config: iterations, tolerance, initialisation, smallest and largest cluster.
        seeds: of the initialisation of each class, >= 0.
        previous: (any, D) float32 centroids of each class in the previous table; None without one.

    Returns:
        The clusters of each class.
    """
    rows = np.ascontiguousarray(rows)
    starts = _starts(sizes)
    centroids = [
        initial_centroids(
            config.init,
            rows[start : start + size].__getitem__,
            size,
            count,
            seed=seed,
            previous=own,
        )
        for start, size, count, seed, own in zip(
            starts.tolist(), sizes.tolist(), num_clusters.tolist(), seeds, previous, strict=True
        )
    ]
    classes = _Classes(rows, sizes, num_clusters, np.concatenate(centroids))
    iterations = _iterate(classes, config)
    results = classes.describe(iterations)
    for number in np.flatnonzero(classes.met_empty | classes.of_wrong_size(config)).tolist():
        part = slice(starts[number], starts[number] + sizes[number])
        if classes.met_empty[number]:
            count = int(num_clusters[number])
            results[number] = spherical_kmeans(
                rows[part],
                count,
                config=config,
                seed=seeds[number],
                previous=previous[number],
            )
        else:
            alone, totals = classes.alone(number)
            results[number] = finish_kmeans(alone, totals, config, int(iterations[number]))
    return results


class _Step(NamedTuple):
    """The outcome of an iteration."""

    changed: npt.NDArray[np.int64]
    """(B,) rows of each class that went to another cluster."""
    mean_cosine: npt.NDArray[np.float64]
    """(B,) of the rows of each class and their centroids."""


class _Classes:
    """The rows of some classes, the cluster of each, and the clusters' centroids."""

    def __init__(
        self,
        rows: npt.NDArray[np.float32],
        sizes: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
        centroids: npt.NDArray[np.float32],
    ) -> None:
        self._rows = rows
        self._sizes, self._counts = sizes, counts
        self._row_starts, self._cluster_starts = _starts(sizes), _starts(counts)
        self._centroids = centroids
        self._runs = Runs(rows, sizes, centroids, counts)
        self._first_cluster = np.repeat(self._cluster_starts, sizes)
        self._assignment = np.full(len(rows), -1)
        self._sums = np.zeros(centroids.shape)  # in units, exact for so few rows
        self._num_members = np.zeros(len(centroids), dtype=np.int64)
        self.met_empty: npt.NDArray[np.bool_] = np.zeros(len(sizes), dtype=np.bool_)
        """(B,) whether a cluster of the class has been left without a row."""

    def step(self, active: npt.NDArray[np.bool_]) -> _Step:
        """Give each row of the active (B,) classes to its nearest centroid."""
        self._runs.compare(np.flatnonzero(active))
        assignment = self._runs.nearest + self._first_cluster
        changed = np.add.reduceat(assignment != self._assignment, self._row_starts, dtype=np.int64)
        self._sums += change_of_sums(self._rows, self._assignment, assignment, len(self._sums))
        self._assignment = assignment
        self._num_members = np.bincount(assignment, minlength=len(self._centroids))
        self.met_empty |= active & (
            np.minimum.reduceat(self._num_members, self._cluster_starts) == 0
        )
        objective = np.add.reduceat(in_units(self._runs.cosines), self._row_starts)
        return _Step(changed, objective / UNITS / self._sizes)

    def move_centroids(self, active: npt.NDArray[np.bool_]) -> None:
        """Move the centroids of the active (B,) classes to the directions of their means."""
        own = np.flatnonzero(np.repeat(active, self._counts))
        self._centroids[own] = moved_centroids(
            self._sums[own], self._num_members[own], self._centroids[own]
        )

    def alone(self, number: int) -> tuple[LocalPartitions, Totals]:
        """A class as a single partition, its rows in their clusters, and its totals."""
        start, cluster = self._row_starts[number], self._cluster_starts[number]
        part = slice(start, start + self._sizes[number])
        own = slice(cluster, cluster + self._counts[number])
        rows, cosines = self._rows[part], self._runs.cosines[part]
        state = PartitionState(self._runs.nearest[part].astype(np.int32), cosines)
        whole = Partition(lambda first, end: rows[first:end], len(rows), state=state)
        totals = Totals(
            self._sums[own].astype(np.int64),
            self._num_members[own],
            int(in_units(cosines).sum()),
            len(rows),
        )
        return LocalPartitions((whole,), *rows.shape), totals

    def of_wrong_size(self, config: ClusterConfig) -> npt.NDArray[np.bool_]:
        """(B,) whether a cluster of the class is smaller, or larger, than the settings allow."""
        smallest = np.minimum.reduceat(self._num_members, self._cluster_starts)
        wrong = smallest < config.min_cluster_size
        if config.balance:
            largest = np.maximum.reduceat(self._num_members, self._cluster_starts)
            allowed = [
                largest_allowed(size, count, config.balance)
                for size, count in zip(self._sizes.tolist(), self._counts.tolist(), strict=True)
            ]
            wrong |= largest > allowed
        return wrong

    def describe(self, iterations: npt.NDArray[np.int64]) -> list[KMeansResult]:
        """Number the clusters of each class by their first rows, and describe them.

        A class that has met an empty cluster gets a meaningless result.

        Args:
            iterations: (B,) made for each class.
        """
        first = np.full(len(self._centroids), len(self._rows))
        # Of several rows of a cluster the last one written, which is the first one, stays.
        first[self._assignment[::-1]] = np.arange(len(self._rows))[::-1]
        class_of = np.repeat(np.arange(len(self._counts)), self._counts)
        order, number_of = numbering(first, class_of)
        counts = self._num_members[order]
        centroids, lengths = final_centroids(
            self._sums[order], counts, lambda clusters: self._rows[first[order[clusters]]]
        )
        numbers = number_of[self._assignment]
        spread = mean_angles(angle_sums(self._rows, numbers, centroids), counts)
        assignment = (numbers - self._first_cluster).astype(np.int32)
        objective = objectives(lengths, counts, self._sizes, self._cluster_starts)
        concentration = lengths.astype(np.float32)
        return [
            KMeansResult(
                centroids=centroids[cluster : cluster + count],
                assignment=assignment[row : row + size],
                spread=spread[cluster : cluster + count],
                concentration=concentration[cluster : cluster + count],
                objective=mean_cosine,
                iterations=num_iterations,
            )
            for row, size, cluster, count, mean_cosine, num_iterations in zip(
                self._row_starts.tolist(),
                self._sizes.tolist(),
                self._cluster_starts.tolist(),
                self._counts.tolist(),
                objective.tolist(),
                iterations.tolist(),
                strict=True,
            )
        ]


def _iterate(classes: _Classes, config: ClusterConfig) -> npt.NDArray[np.int64]:
    """Iterate until each class has settled; (B,) iterations of each."""
    num_classes = len(classes.met_empty)
    iterations = np.zeros(num_classes, dtype=np.int64)
    active = np.ones(num_classes, dtype=np.bool_)
    before = np.full(num_classes, -np.inf)
    for iteration in range(1, config.iterations + 1):
        step = classes.step(active)
        iterations[active] = iteration
        gain, before = step.mean_cosine - before, step.mean_cosine
        settled = has_settled(iteration, step.changed, gain, step.mean_cosine, config.tolerance)
        active &= ~(settled | classes.met_empty)
        if not active.any():
            break
        if iteration < config.iterations:
            classes.move_centroids(active)
    return iterations


def _starts(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where runs of these lengths begin."""
    return np.cumsum(lengths) - lengths
