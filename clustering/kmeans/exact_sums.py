"""Sums that are the same in any order: of whole units of 2^-36.

Legend: n rows, D embedding, K clusters.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csc_matrix

UNITS = 2.0**36
"""Of a sum. One of 2^27 unit rows fits into an int64, one of 2^17 into a float64 exactly."""

_BLOCK_ROWS = 1024  # that are turned into units at a time


def in_units(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Round to whole units of 2^-36: float64 adds up 2^17 of them in [-1, 1] without an error."""
    # Times a power of 2, and rounded to an integer, a float32 is exact as a float32.
    units = values * values.dtype.type(UNITS)
    return np.rint(units, out=units).astype(np.float64)


def angle_sums(
    rows: npt.NDArray[np.float32],
    assignment: npt.NDArray[np.integer],
    centroids: npt.NDArray[np.float32],
) -> npt.NDArray[np.int64]:
    """(K,) sum of the angles of the members of each cluster to its centroid, in units of 2^-36.

    Args:
        rows: (n, D) float32 unit rows, n <= 2^14.
        assignment: (n,) cluster of each row.
        centroids: (K, D) float32 unit rows.
    """
    cosines = np.einsum("nd,nd->n", rows, centroids[assignment])
    radians = in_units(np.arccos(np.clip(cosines, -1.0, 1.0)))
    return np.bincount(assignment, weights=radians, minlength=len(centroids)).astype(np.int64)


def cluster_sums(
    units: npt.NDArray[np.float64], assignment: npt.NDArray[np.integer], num_clusters: int
) -> npt.NDArray[np.float64]:
    """Sum the members of each cluster, exactly.

    Args:
        units: (n, D) float64 rows in whole units, n <= 2^17.
        assignment: (n,) cluster of each row, -1 for none.
        num_clusters: K.

    Returns:
        (K, D) float64 in whole units, zeros for a cluster without a member.
    """
    chosen = assignment >= 0
    members = assignment[chosen].astype(np.int32)
    ends = np.concatenate([[0], np.cumsum(chosen)])
    columns = (np.ones(len(members)), members, ends)
    return np.asarray(csc_matrix(columns, shape=(num_clusters, len(units))) @ units)


def change_of_sums(
    rows: npt.NDArray[np.float32],
    before: npt.NDArray[np.integer],
    after: npt.NDArray[np.integer],
    num_clusters: int,
) -> npt.NDArray[np.float64]:
    """Sum the rows that come to each cluster, minus those that leave it, exactly.

    Rows that stay cost next to nothing.

    Args:
        rows: (n, D) float32 unit rows, n <= 2^17.
        before: (n,) cluster of each, -1 for none.
        after: (n,) cluster of each, -1 for none.
        num_clusters: K.

    Returns:
        (K, D) float64 in whole units.
    """
    changed = np.flatnonzero(before != after)
    sums = np.zeros((num_clusters, rows.shape[1]))
    # Few at a time stay in the cache, but each block also takes K sums.
    block = max(_BLOCK_ROWS, 4 * num_clusters)
    for first in range(0, len(changed), block):
        some = changed[first : first + block]
        units = in_units(rows[some])
        sums += cluster_sums(units, after[some], num_clusters)
        sums -= cluster_sums(units, before[some], num_clusters)
    return sums
