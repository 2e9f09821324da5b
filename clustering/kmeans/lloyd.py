"""The rules of Lloyd's iterations, for every way in which a class is clustered.

One class after the other, many small classes side by side, and classes of a single cluster, which
is a mean: each must make the same clusters of the same rows to the last bit, so what decides them
is here.

Legend: n rows, D embedding, K clusters, B classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.kmeans.exact_sums import UNITS

_CANCELLED = 1e-6  # a mean of unit rows shorter than this has no direction

ReadFirstMembers = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""(E,) clusters that have members -> (E, D) the first row of each."""


@dataclass(frozen=True)
class KMeansResult:
    """The clusters of a class, numbered by their first members; none is empty."""

    centroids: npt.NDArray[np.float32]
    """(K, D) unit rows: the direction of the mean of the members."""
    assignment: npt.NDArray[np.int32]
    """(n,) cluster of each row, 0 .. K - 1."""
    spread: npt.NDArray[np.float32]
    """(K,) mean angle between members and centroid, in radians."""
    concentration: npt.NDArray[np.float32]
    """(K,) length of the mean of the members, in [0, 1]."""
    objective: float
    """Mean cosine of a row and its centroid, in [-1, 1]; k-means maximises it."""
    iterations: int
    """Iterations made; 0 for a single cluster, which is a mean."""


def has_settled(iteration: int, changed: Any, gain: Any, mean_cosine: Any, tolerance: float) -> Any:
    """Whether k-means of a class ends before all its iterations are made.

    Args:
        iteration: number of the one just made, from 1.
        changed: rows that it brought to another cluster; a number, or (B,) for several classes.
        gain: by how much it raised the mean cosine; in the same shape.
        mean_cosine: of rows and centroids, after it; in the same shape.
        tolerance: the setting.

    Returns:
        bool, or (B,) bool.
    """
    return (iteration > 1) & ((changed == 0) | (gain <= tolerance * np.abs(mean_cosine)))


def mean_directions(
    sums: npt.NDArray[np.integer] | npt.NDArray[np.float64], counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Split the means of clusters into direction and length.

    Args:
        sums: (K, D) sums of the members, in units of 2^-36.
        counts: (K,) members of each.

    Returns:
        (K, D) float32 unit rows, NaN where the members cancel out or there are none; and (K,)
        float64 lengths in [0, 1].
    """
    means = sums / UNITS / np.maximum(counts, 1)[:, np.newaxis]
    lengths = np.sqrt(np.einsum("kd,kd->k", means, means))
    divisors = np.where(lengths < _CANCELLED, np.nan, lengths)
    directions = (means / divisors[:, np.newaxis]).astype(np.float32)
    return directions, np.minimum(lengths, 1.0)


def moved_centroids(
    sums: npt.NDArray[np.integer] | npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    before: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """(K, D) the centroids of the next iteration; one whose mean has no direction stays.

    Args:
        sums: (K, D) sums of the members, in units of 2^-36.
        counts: (K,) members of each.
        before: (K, D) the centroids of this iteration.
    """
    centroids, _ = mean_directions(sums, counts)
    cancelled = np.isnan(centroids[:, 0])
    centroids[cancelled] = before[cancelled]
    return centroids


def final_centroids(
    sums: npt.NDArray[np.integer] | npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    read_first_members: ReadFirstMembers,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """The centroids of a table; where the members cancel out it is the first of them.

    Args:
        sums: (K, D) sums of the members, in units of 2^-36.
        counts: (K,) members of each.
        read_first_members: reads the first row of clusters that have members.

    Returns:
        (K, D) float32 unit rows, NaN for a cluster without members; and (K,) float64 lengths of
        the means.
    """
    centroids, lengths = mean_directions(sums, counts)
    cancelled = np.flatnonzero(np.isnan(centroids[:, 0]) & (counts > 0))
    if len(cancelled):
        centroids[cancelled] = read_first_members(cancelled)
    return centroids, lengths


def numbering(
    first_members: npt.NDArray[np.int64], class_of: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Number the clusters of a class by their first members; the classes stay in their order.

    Args:
        first_members: (K,) first row of each cluster. Clusters without one come last in their class
            if theirs is larger than all rows.
        class_of: (K,) class of each cluster, ascending; None if they are all of one.

    Returns:
        (K,) which cluster comes first, second, ...; and (K,) the new number of each.
    """
    keys = (first_members,) if class_of is None else (first_members, class_of)
    order = np.lexsort(keys)
    number_of = np.empty(len(order), dtype=np.int64)
    number_of[order] = np.arange(len(order))
    return order, number_of


def objectives(
    lengths: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    class_sizes: npt.NDArray[np.int64],
    first_clusters: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """(B,) mean cosine of a row and its centroid.

    The members of a cluster have the mean cosine |mean| with the direction of their mean.

    Args:
        lengths: (K,) of the means of the clusters, class after class.
        counts: (K,) members of each.
        class_sizes: (B,) rows of each class.
        first_clusters: (B,) first cluster of each class.
    """
    sums: npt.NDArray[np.float64] = np.add.reduceat(lengths * counts, first_clusters)
    return sums / class_sizes


def mean_angles(
    angles: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """(K,) mean angle between members and centroid in radians, from sums in units of 2^-36."""
    return (angles / UNITS / np.maximum(counts, 1)).astype(np.float32)


def largest_allowed(num_rows: int, num_clusters: int, balance: float) -> int:
    """Rows that a cluster may have where `cluster.balance` bounds it."""
    return int(np.ceil(balance * num_rows / num_clusters))
