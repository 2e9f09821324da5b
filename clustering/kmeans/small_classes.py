"""k-means of many small classes at once, to the last bit the clusters that `kmeans` makes of each.

The classes iterate side by side. Only comparing rows with centroids is a call for each class; every
other step is one operation on the rows, or the clusters, of all of them. What that does not cover
is left to `kmeans`: a class that meets an empty cluster, and clusters of a wrong size.

Legend: B classes, n rows of them all, D embedding, K clusters of them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clustering.config import ClusterConfig
from clustering.kmeans.backends import Runs
from clustering.kmeans.exact_sums import UNITS, angle_sums, change_of_sums, in_units, mean_angles
from clustering.kmeans.initial import initial_centroids
from clustering.kmeans.means import directions
from clustering.kmeans.one_class import (
    KMeansResult,
    LocalGroup,
    finish_kmeans,
    largest_cluster,
    spherical_kmeans,
)
from clustering.kmeans.shares import Share, ShareState, Totals


def cluster_small_classes(  # noqa: PLR0913 - what `spherical_kmeans` takes, of each class
    rows: npt.NDArray[np.float32],
    sizes: npt.NDArray[np.int64],
    num_clusters: npt.NDArray[np.int64],
    *,
    config: ClusterConfig,
    seeds: Sequence[int],
    warm: Sequence[npt.NDArray[np.float32] | None],
) -> list[KMeansResult]:
    """Divide each class into clusters by direction: `spherical_kmeans` of each.

    Args:
        rows: (n, D) float32, finite unit rows, class after class; n <= 2^14.
        sizes: (B,) rows of each class.
        num_clusters: (B,) wanted clusters of each class, 2 <= that <= its rows.
        config: iterations, tolerance, start, smallest and largest cluster.
        seeds: of the rows that each class starts from, >= 0.
        warm: (any, D) float32 centroids that each class starts from; None for rows.

    Returns:
        The clusters of each class.
    """
    rows = np.ascontiguousarray(rows)
    starts = _starts(sizes)
    centroids = [
        initial_centroids(
            rows[start : start + size].__getitem__, size, count, config.init, seed=seed, warm=own
        )
        for start, size, count, seed, own in zip(
            starts.tolist(), sizes.tolist(), num_clusters.tolist(), seeds, warm, strict=True
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
                rows[part], count, config=config, seed=seeds[number], warm=warm[number]
            )
        else:
            group, totals = classes.alone(number)
            results[number] = finish_kmeans(group, totals, config, int(iterations[number]))
    return results


class _Step(NamedTuple):
    """What came of comparing all rows with all centroids."""

    changed: npt.NDArray[np.int64]
    """(B,) rows of each class that came to another cluster."""
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
        """Bring the centroids of the active (B,) classes to the directions of their means."""
        clusters = np.flatnonzero(np.repeat(active, self._counts))
        _, moved = self._directions(clusters)
        # A mean without a direction leaves its centroid where it was.
        there = ~np.isnan(moved[:, 0])
        self._centroids[clusters[there]] = moved[there]

    def alone(self, number: int) -> tuple[LocalGroup, Totals]:
        """A class by itself, its rows in their clusters, and its totals."""
        start, cluster = self._row_starts[number], self._cluster_starts[number]
        part = slice(start, start + self._sizes[number])
        own = slice(cluster, cluster + self._counts[number])
        rows, cosines = self._rows[part], self._runs.cosines[part]
        state = ShareState(self._runs.nearest[part].astype(np.int32), cosines)
        share = Share(lambda first, end: rows[first:end], len(rows), state=state)
        totals = Totals(
            self._sums[own].astype(np.int64),
            self._num_members[own],
            int(in_units(cosines).sum()),
            len(rows),
        )
        return LocalGroup((share,), *rows.shape), totals

    def of_wrong_size(self, config: ClusterConfig) -> npt.NDArray[np.bool_]:
        """(B,) whether a cluster of the class is smaller, or larger, than the settings allow."""
        smallest = np.minimum.reduceat(self._num_members, self._cluster_starts)
        wrong = smallest < config.min_cluster_size
        if config.balance:
            largest = np.maximum.reduceat(self._num_members, self._cluster_starts)
            allowed = [
                largest_cluster(size, count, config.balance)
                for size, count in zip(self._sizes.tolist(), self._counts.tolist(), strict=True)
            ]
            wrong |= largest > allowed
        return wrong

    def describe(self, iterations: npt.NDArray[np.int64]) -> list[KMeansResult]:
        """Number the clusters of each class by their first rows, and describe them.

        A class that has met an empty cluster gets nonsense.

        Args:
            iterations: (B,) made for each class.
        """
        first = np.full(len(self._centroids), len(self._rows))
        # Of several rows of a cluster the last one written, which is the first one, stays.
        first[self._assignment[::-1]] = np.arange(len(self._rows))[::-1]
        class_of = np.repeat(np.arange(len(self._counts)), self._counts)
        order = np.lexsort((first, class_of))
        number_of = np.empty(len(order), dtype=np.int64)
        number_of[order] = np.arange(len(order))
        lengths, centroids = self._directions(order)
        cancelled = np.isnan(centroids[:, 0])
        first_rows = np.minimum(first[order[cancelled]], len(self._rows) - 1)
        centroids[cancelled] = self._rows[first_rows]
        numbers, num_members = number_of[self._assignment], self._num_members[order]
        angles = angle_sums(self._rows, numbers, centroids)
        spread = mean_angles(angles, np.maximum(num_members, 1))
        assignment = (numbers - self._first_cluster).astype(np.int32)
        objective = np.add.reduceat(lengths * num_members, self._cluster_starts) / self._sizes
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

    def _directions(
        self, clusters: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
        """Length and direction of the mean of each of some clusters."""
        num_members = np.maximum(self._num_members[clusters], 1)
        return directions(self._sums[clusters] / UNITS / num_members[:, np.newaxis])


def _iterate(classes: _Classes, config: ClusterConfig) -> npt.NDArray[np.int64]:
    """Iterate until each class is settled, as `kmeans` does; (B,) iterations of each."""
    num_classes = len(classes.met_empty)
    iterations = np.zeros(num_classes, dtype=np.int64)
    active = np.ones(num_classes, dtype=np.bool_)
    before = np.full(num_classes, -np.inf)
    for iteration in range(1, config.iterations + 1):
        step = classes.step(active)
        iterations[active] = iteration
        gain, before = step.mean_cosine - before, step.mean_cosine
        if iteration > 1:
            active &= (step.changed > 0) & (gain > config.tolerance * np.abs(step.mean_cosine))
        active &= ~classes.met_empty
        if not active.any():
            break
        if iteration < config.iterations:
            classes.move_centroids(active)
    return iterations


def _starts(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where runs of these lengths begin."""
    return np.cumsum(lengths) - lengths
