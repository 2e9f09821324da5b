"""The nearest clusters of each cluster: of other classes, and of its own.

Legend: M clusters, D embedding, R neighbours and S siblings of a cluster.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clustering.top_k import row_blocks, top_k


def neighbour_lists(
    centroids: npt.NDArray[np.float32],
    class_of: npt.NDArray[np.int64],
    *,
    neighbours: int,
    siblings: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """List the nearest clusters of each cluster, by an exact search in blocks.

    Args:
        centroids: (M, D) float32, unit rows.
        class_of: (M,) int64, ascending.
        neighbours: wanted number of clusters of other classes, >= 0.
        siblings: wanted number of clusters of the same class, >= 0.

    Returns:
        Neighbours (M, R) and siblings (M, S), int64, by descending cosine, equal ones by ascending
        cluster, -1 where a cluster has no more. R and S are the wanted numbers or, if that is less,
        the most that any cluster has.

    Raises:
        ValueError: when the clusters are not sorted by class.
    """
    if np.any(np.diff(class_of) < 0):
        raise ValueError("class_of must be ascending: sort the clusters by class")
    num_clusters = len(class_of)
    starts = np.searchsorted(class_of, class_of, side="left")
    ends = np.searchsorted(class_of, class_of, side="right")
    of_class = ends - starts
    num_neighbours = min(neighbours, int(num_clusters - of_class.min()))
    num_siblings = min(siblings, int(of_class.max()) - 1)
    neighbour_list = np.empty((num_clusters, num_neighbours), dtype=np.int64)
    sibling_list = np.empty((num_clusters, num_siblings), dtype=np.int64)
    for rows in row_blocks(num_clusters, num_clusters):
        similarities = centroids[rows] @ centroids.T
        # Clusters are sorted by class, so all siblings of these rows lie in this range of columns.
        own = slice(int(starts[rows.start]), int(ends[rows.stop - 1]))
        same_class = class_of[rows, np.newaxis] == class_of[np.newaxis, own]
        within = np.where(same_class, similarities[:, own], -np.inf)
        numbers = np.arange(rows.start, rows.stop)
        within[numbers - rows.start, numbers - own.start] = -np.inf
        similarities[:, own][same_class] = -np.inf
        neighbour_list[rows] = _nearest(similarities, num_neighbours)
        sibling_list[rows] = _nearest(within, num_siblings, first_column=own.start)
    return neighbour_list, sibling_list


def _nearest(
    similarities: npt.NDArray[np.float32], num_wanted: int, first_column: int = 0
) -> npt.NDArray[np.int64]:
    num_there = min(num_wanted, similarities.shape[1])
    columns, entries = top_k(similarities, num_there)
    nearest = np.full((len(similarities), num_wanted), -1, dtype=np.int64)
    nearest[:, :num_there] = np.where(np.isneginf(entries), -1, columns + first_column)
    return nearest
