"""Many classes of one cluster each, all at once: no k-means, and no loop over the classes.

To the last bit what `kmeans` makes of one cluster.

Legend: B classes, n rows of them all, D embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clustering.kmeans.exact_sums import UNITS, angle_sums, cluster_sums, in_units, mean_angles

_CANCELLED = 1e-6  # a mean of unit rows shorter than this has no direction


class Means(NamedTuple):
    """One cluster of each class."""

    centroids: npt.NDArray[np.float32]
    """(B, D) unit rows: the direction of the mean of the rows."""
    spread: npt.NDArray[np.float32]
    """(B,) mean angle between rows and centroid, in radians."""
    concentration: npt.NDArray[np.float32]
    """(B,) length of the mean of the rows, in [0, 1]."""


def class_means(rows: npt.NDArray[np.float32], sizes: npt.NDArray[np.int64]) -> Means:
    """Compute the mean of each class.

    Args:
        rows: (n, D) float32 unit rows, class after class; n <= 2^14.
        sizes: (B,) rows of each class, >= 1; B >= 1.
    """
    class_ = np.repeat(np.arange(len(sizes)), sizes)
    means = cluster_sums(in_units(rows), class_, len(sizes)) / UNITS / sizes[:, np.newaxis]
    lengths, centroids = directions(means)
    cancelled = np.isnan(centroids[:, 0])
    centroids[cancelled] = rows[(np.cumsum(sizes) - sizes)[cancelled]]
    spread = mean_angles(angle_sums(rows, class_, centroids), sizes)
    return Means(centroids, spread, lengths.astype(np.float32))


def directions(
    means: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Split means of unit rows into length and direction.

    Args:
        means: (B, D) float64.

    Returns:
        (B,) float64 lengths in [0, 1], and (B, D) float32 unit rows; NaN where rows cancelled out.
    """
    lengths = np.sqrt(np.einsum("bd,bd->b", means, means))
    divisors = np.where(lengths < _CANCELLED, np.nan, lengths)
    return np.minimum(lengths, 1.0), (means / divisors[:, np.newaxis]).astype(np.float32)
