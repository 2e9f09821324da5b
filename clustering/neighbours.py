"""The nearest clusters of each cluster: of other classes, and of its own.

Legend: M clusters, D embedding, R neighbours and S siblings of a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from clustering.backends import one_thread
from clustering.top_k import row_blocks, top_k

# Of the graph that the approximate search walks: links of a cluster, candidates when it is built,
# and candidates of a search for each cluster wanted.
_LINKS = 24
_CANDIDATES_BUILDING = 60
_CANDIDATES_WANTED = 2
_BLOCK = 1024  # rows of a block where only their own classes are compared


@dataclass(frozen=True)
class _Clusters:
    centroids: npt.NDArray[np.float32]
    class_of: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    """(M,) first cluster of the class of each cluster."""
    ends: npt.NDArray[np.int64]
    """(M,) end of the class of each cluster."""

    def __len__(self) -> int:
        return len(self.class_of)

    def own(self, rows: slice) -> slice:
        """All clusters of the classes of some rows: clusters are sorted by class."""
        return slice(int(self.starts[rows.start]), int(self.ends[rows.stop - 1]))


def neighbour_lists(
    centroids: npt.NDArray[np.float32],
    class_of: npt.NDArray[np.int64],
    *,
    neighbours: int,
    siblings: int,
    exact_up_to: int = 2**62,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """List the nearest clusters of each cluster.

    Siblings are always exact. Neighbours are, by a search in blocks, up to a number of clusters;
    beyond, a graph of the clusters (FAISS's HNSW) finds nearly all of them.

    Args:
        centroids: (M, D) float32, unit rows.
        class_of: (M,) int64, ascending.
        neighbours: wanted number of clusters of other classes, >= 0.
        siblings: wanted number of clusters of the same class, >= 0.
        exact_up_to: with more clusters than this the neighbours are approximate.

    Returns:
        Neighbours (M, R) and siblings (M, S), int64, by descending cosine, equal ones by ascending
        cluster (if exact), -1 where a cluster has no more. R and S are the wanted numbers or, if
        that is less, the most that any cluster has.

    Raises:
        ValueError: when the clusters are not sorted by class.
    """
    if np.any(np.diff(class_of) < 0):
        raise ValueError("class_of must be ascending: sort the clusters by class")
    starts = np.searchsorted(class_of, class_of, side="left")
    ends = np.searchsorted(class_of, class_of, side="right")
    clusters = _Clusters(centroids, class_of, starts, ends)
    num_neighbours = min(neighbours, int(len(clusters) - (ends - starts).min()))
    num_siblings = min(siblings, int((ends - starts).max()) - 1)
    neighbour_list = np.empty((len(clusters), num_neighbours), dtype=np.int64)
    sibling_list = np.empty((len(clusters), num_siblings), dtype=np.int64)
    if num_neighbours and len(clusters) > exact_up_to:
        neighbour_list[:] = _approximate(clusters, num_neighbours)
        exact = False
    else:
        exact = num_neighbours > 0
    for rows in row_blocks(len(clusters), len(clusters), None if exact else _BLOCK):
        numbers = np.arange(rows.start, rows.stop)
        own = clusters.own(rows)
        if num_siblings:
            within = centroids[rows] @ centroids[own].T
            other_class = class_of[rows, np.newaxis] != class_of[np.newaxis, own]
            within[other_class] = -np.inf
            within[numbers - rows.start, numbers - own.start] = -np.inf
            sibling_list[rows] = _nearest(within, num_siblings, first_column=own.start)
        if exact:
            neighbour_list[rows] = _exact(clusters, numbers, num_neighbours)
    return neighbour_list, sibling_list


def _exact(
    clusters: _Clusters, numbers: npt.NDArray[np.int64], num_wanted: int
) -> npt.NDArray[np.int64]:
    """(rows, R) nearest clusters of other classes of some clusters, which are sorted."""
    similarities = clusters.centroids[numbers] @ clusters.centroids.T
    own = slice(int(clusters.starts[numbers[0]]), int(clusters.ends[numbers[-1]]))
    same_class = clusters.class_of[numbers, np.newaxis] == clusters.class_of[np.newaxis, own]
    similarities[:, own][same_class] = -np.inf
    return _nearest(similarities, num_wanted)


def _approximate(clusters: _Clusters, num_wanted: int) -> npt.NDArray[np.int64]:
    """(M, R) clusters of other classes, nearly all of them the nearest."""
    centroids = np.ascontiguousarray(clusters.centroids)
    index = faiss.IndexHNSWFlat(centroids.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _CANDIDATES_BUILDING
    with one_thread():  # the order in which the graph grows decides how it looks
        index.add(centroids)
    # Clusters of the own class are found too; where there are more of them, the search is exact.
    of_class = min(int((clusters.ends - clusters.starts).max()), num_wanted)
    num_searched = min(num_wanted + of_class, len(clusters))
    index.hnsw.efSearch = _CANDIDATES_WANTED * num_searched
    lists = np.empty((len(clusters), num_wanted), dtype=np.int64)
    for rows in row_blocks(len(clusters), num_searched):
        _, found = index.search(centroids[rows], num_searched)
        other = (found >= 0) & (clusters.class_of[found] != clusters.class_of[rows, np.newaxis])
        first = np.argsort(~other, axis=1, kind="stable")[:, :num_wanted]
        lists[rows] = np.take_along_axis(found, first, axis=1)
        short = np.flatnonzero(~np.take_along_axis(other, first, axis=1).all(axis=1)) + rows.start
        for part in row_blocks(len(short), len(clusters)):
            lists[short[part]] = _exact(clusters, short[part], num_wanted)
    return lists


def _nearest(
    similarities: npt.NDArray[np.float32], num_wanted: int, first_column: int = 0
) -> npt.NDArray[np.int64]:
    num_there = min(num_wanted, similarities.shape[1])
    columns, entries = top_k(similarities, num_there)
    nearest = np.full((len(similarities), num_wanted), -1, dtype=np.int64)
    nearest[:, :num_there] = np.where(np.isneginf(entries), -1, columns + first_column)
    return nearest
