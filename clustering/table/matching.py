"""Number the clusters of a class like the most similar ones of an earlier table.

So a number keeps its meaning from table to table.

Legend: M clusters, K clusters of a class, J earlier clusters of it, D embedding.
"""

from __future__ import annotations

import faiss
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from clustering.table.table import ClusterTable
from clustering.table.top_k import row_blocks
from data_shards.progress import OnStep, no_step

_LARGEST_EXACT = 2000  # clusters of a class; with more, the best assignment takes seconds
_CANDIDATES = 16  # earlier clusters that a new one may be paired with, if there are more
_PAIRS_AT_A_TIME = 1 << 16
_SEARCHED_ROWS = 1 << 15  # of a block whose candidates are searched


def matched_order(
    centroids: npt.NDArray[np.float32],
    class_of: npt.NDArray[np.int64],
    earlier: ClusterTable,
    on_step: OnStep = no_step,
) -> npt.NDArray[np.int64]:
    """Order the clusters of each class like the most similar earlier ones.

    A class has the places 0 .. K - 1. Earlier and new clusters are paired so that the sum of their
    cosines is largest; in a class of more than 2,000 clusters, new or earlier, the most similar two
    are paired first, and a new cluster only with one of the 16 earlier ones most similar to it. A
    new cluster takes the place of its partner if its class still has that place; the others take
    the remaining places in their order.

    Args:
        centroids: (M, D) float32 unit rows.
        class_of: (M,) int64, ascending.
        earlier: a table of the same dimension.
        on_step: called after each class, and blocks of the clusters of a large one.

    Returns:
        (M,) int64, which cluster comes first, second, ...; sorted by class.
    """
    order = np.arange(len(class_of))
    starts = np.flatnonzero(np.diff(class_of, prepend=-1))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(class_of)], strict=True):
        numbers = earlier.clusters_of_class(int(class_of[start]))
        if end - start > 1 and len(numbers):
            places = _places(centroids[start:end], earlier.centroids[numbers], on_step)
            order[start + places] = np.arange(start, end)
        on_step()
    return order


def _places(
    centroids: npt.NDArray[np.float32],
    earlier_centroids: npt.NDArray[np.float32],
    on_step: OnStep = no_step,
) -> npt.NDArray[np.int64]:
    """(K,) place of each cluster of a class."""
    if max(len(centroids), len(earlier_centroids)) <= _LARGEST_EXACT:
        new, old = linear_sum_assignment(centroids @ earlier_centroids.T, maximize=True)
    else:
        new, old = _greedy(centroids, earlier_centroids, on_step)
    places = np.full(len(centroids), -1)
    there = old < len(centroids)
    places[new[there]] = old[there]
    places[places < 0] = np.setdiff1d(np.arange(len(centroids)), places)
    return places


def _greedy(
    centroids: npt.NDArray[np.float32],
    earlier_centroids: npt.NDArray[np.float32],
    on_step: OnStep = no_step,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pair the two most similar clusters that are left, until none are; equal ones by number.

    Memory is O(K), as only the nearest earlier clusters are candidates. Where more of them are
    equally near, FAISS chooses, the same ones each time.

    Args:
        centroids: (K, D) float32 unit rows.
        earlier_centroids: (J, D) float32 unit rows.
        on_step: called after each block of clusters.

    Returns:
        New and earlier clusters of the pairs; no cluster is in two pairs.
    """
    num_candidates = min(_CANDIDATES, len(earlier_centroids))
    cosines = np.empty((len(centroids), num_candidates), dtype=np.float32)
    near = np.empty(cosines.shape, dtype=np.int64)
    for rows in row_blocks(len(centroids), 1, _SEARCHED_ROWS, on_step):
        cosines[rows], near[rows] = faiss.knn(
            np.ascontiguousarray(centroids[rows]),
            earlier_centroids,
            num_candidates,
            metric=faiss.METRIC_INNER_PRODUCT,
        )
    pairs = np.lexsort(
        (near.ravel(), np.repeat(np.arange(len(near)), num_candidates), -cosines.ravel())
    )
    partner = np.full(len(centroids), -1)
    free = [True] * len(earlier_centroids)
    for part in row_blocks(len(pairs), 1, _PAIRS_AT_A_TIME, on_step):
        new_of_pair, old_of_pair = pairs[part] // num_candidates, near.ravel()[pairs[part]]
        for new, old in zip(new_of_pair.tolist(), old_of_pair.tolist(), strict=True):
            if free[old] and partner[new] < 0:
                free[old] = False
                partner[new] = old
    paired = np.flatnonzero(partner >= 0)
    return paired, partner[paired]
