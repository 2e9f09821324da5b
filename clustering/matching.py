"""Number the clusters of a class as the similar ones of an earlier table, so that a number stays.

Legend: M clusters, K clusters of a class, J earlier ones of it, D embedding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from clustering.table import ClusterTable

_LARGEST_EXACT = 2000  # clusters of a class; the best assignment takes seconds from there on


def matched_order(
    centroids: npt.NDArray[np.float32], class_of: npt.NDArray[np.int64], earlier: ClusterTable
) -> npt.NDArray[np.int64]:
    """Sort the clusters of each class into the places of the most similar earlier ones.

    A class has the places 0 .. K - 1. Earlier and new clusters are paired so that the sum of their
    cosines is largest; a new cluster takes the place of its partner, if there is such a place, and
    the others take those that are left, in their order.

    Args:
        centroids: (M, D) float32 unit rows.
        class_of: (M,) int64, ascending.
        earlier: a table of the same dimension.

    Returns:
        (M,) int64, which cluster comes first, second, ...; still sorted by class.
    """
    order = np.arange(len(class_of))
    starts = np.flatnonzero(np.diff(class_of, prepend=-1))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(class_of)], strict=True):
        former = earlier.clusters_of_class(int(class_of[start]))
        if end - start > 1 and len(former):
            places = _places(centroids[start:end], earlier.centroids[former])
            order[start + places] = np.arange(start, end)
    return order


def _places(
    centroids: npt.NDArray[np.float32], former: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """(K,) the place of each cluster of a class."""
    similarities = centroids @ former.T
    if max(similarities.shape) <= _LARGEST_EXACT:
        new, old = linear_sum_assignment(similarities, maximize=True)
    else:
        new, old = _greedy(similarities)
    places = np.full(len(centroids), -1)
    there = old < len(centroids)
    places[new[there]] = old[there]
    places[places < 0] = np.setdiff1d(np.arange(len(centroids)), places)
    return places


def _greedy(
    similarities: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pair the most similar two that are left, again and again."""
    pairs = np.argsort(-similarities, axis=None, kind="stable")
    free_new, free_old = (np.ones(n, dtype=np.bool_) for n in similarities.shape)
    chosen = []
    for new, old in zip(*np.divmod(pairs, similarities.shape[1]), strict=True):
        if free_new[new] and free_old[old]:
            free_new[new] = free_old[old] = False
            chosen.append((new, old))
            if len(chosen) == min(similarities.shape):
                break
    paired = np.array(chosen, dtype=np.int64)
    return paired[:, 0], paired[:, 1]
