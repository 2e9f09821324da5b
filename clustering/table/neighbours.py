"""The nearest clusters of each cluster: of other classes, and of its own.

Legend: M clusters, D embedding, R neighbours and S siblings of a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from clustering.table.near_candidates import FEWEST_VECTORS, near_candidates
from clustering.table.top_k import row_blocks, top_k
from data_shards.progress import OnStep, no_step

_SIBLING_ROWS = 128  # of a block in which clusters are compared with those of their own classes
# Rows of a block that FAISS searches. It compares 4,096 at a time, so this bounds the memory of the
# lists.
_SEARCHED_ROWS = 1 << 15
_FEW_CLASSES = 4  # up to which clusters of the own class are not searched at all
# Lists that are compared with all clusters in the time of a search between two sides of them:
# 20,000 lists in 4.4 s, and a search of 20,000 clusters in 1.8 s; both grow with the clusters.
_LISTS_PER_SEARCH = 8192


@dataclass(frozen=True)
class _Clusters:
    centroids: npt.NDArray[np.float32]
    class_of: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    """(M,) first cluster of the class of each cluster."""
    ends: npt.NDArray[np.int64]
    """(M,) end of the class of each cluster."""
    on_step: OnStep
    """Called after each block of clusters."""

    def __len__(self) -> int:
        return len(self.class_of)

    @property
    def largest_class(self) -> int:
        """Number of clusters of the class that has the most."""
        return int((self.ends - self.starts).max())

    @property
    def num_classes(self) -> int:
        """Number of classes that have clusters."""
        return int(np.count_nonzero(self.starts == np.arange(len(self))))

    def own(self, rows: slice) -> slice:
        """All clusters of the classes of some rows; clusters are sorted by class."""
        return slice(int(self.starts[rows.start]), int(self.ends[rows.stop - 1]))


def neighbour_lists(
    centroids: npt.NDArray[np.float32],
    class_of: npt.NDArray[np.int64],
    *,
    neighbours: int,
    siblings: int,
    exact_up_to: int = 2**62,
    on_step: OnStep = no_step,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """List the nearest clusters of each cluster.

    Siblings are always exact. Neighbours are exact up to a number of clusters, by FAISS's
    exhaustive search; with more, `near_candidates` finds nearly all of them in a fraction of the
    time.

    Args:
        centroids: (M, D) float32, unit rows.
        class_of: (M,) int64, ascending.
        neighbours: wanted number of clusters of other classes, >= 0.
        siblings: wanted number of clusters of the same class, >= 0.
        exact_up_to: with more clusters than this the neighbours are approximate.
        on_step: called after each block of clusters.

    Returns:
        Neighbours (M, R) and siblings (M, S), int64, by descending cosine, equal ones by ascending
        cluster, -1 where a cluster has no more. R and S are the wanted numbers or, if that is less,
        the most that any cluster has.

    Raises:
        ValueError: when the clusters are not sorted by class.
    """
    if np.any(np.diff(class_of) < 0):
        raise ValueError("class_of must be ascending: sort the clusters by class")
    starts = np.searchsorted(class_of, class_of, side="left")
    ends = np.searchsorted(class_of, class_of, side="right")
    clusters = _Clusters(np.ascontiguousarray(centroids), class_of, starts, ends, on_step)
    num_neighbours = min(neighbours, int(len(clusters) - (ends - starts).min()))
    if not num_neighbours:
        found = np.empty((len(clusters), 0), dtype=np.int64)
    elif len(clusters) > max(exact_up_to, FEWEST_VECTORS):
        found = _approximate(clusters, num_neighbours)
    elif clusters.largest_class > num_neighbours:
        # FAISS would also have to find all clusters of the own class.
        found = _compared_with_all(clusters, np.arange(len(clusters)), num_neighbours)
    else:
        found = _exhaustive(clusters, num_neighbours)
    return found, _siblings(clusters, min(siblings, clusters.largest_class - 1))


def _siblings(clusters: _Clusters, num_wanted: int) -> npt.NDArray[np.int64]:
    """(M, S) nearest clusters of the same class."""
    lists = np.empty((len(clusters), num_wanted), dtype=np.int64)
    if num_wanted:
        for rows in row_blocks(len(clusters), 1, _SIBLING_ROWS, clusters.on_step):
            own = clusters.own(rows)
            within = clusters.centroids[rows] @ clusters.centroids[own].T
            other_class = clusters.class_of[rows, np.newaxis] != clusters.class_of[own]
            within[other_class] = -np.inf
            numbers = np.arange(rows.start, rows.stop)
            within[numbers - rows.start, numbers - own.start] = -np.inf
            lists[rows] = _nearest(within, num_wanted, first_column=own.start)
    return lists


def _compared_with_all(
    clusters: _Clusters, numbers: npt.NDArray[np.int64], num_wanted: int
) -> npt.NDArray[np.int64]:
    """(rows, R) nearest clusters of other classes of some clusters, which are ascending."""
    lists = np.empty((len(numbers), num_wanted), dtype=np.int64)
    for block in row_blocks(len(numbers), len(clusters), on_step=clusters.on_step):
        chosen = numbers[block]
        similarities = clusters.centroids[chosen] @ clusters.centroids.T
        own = slice(int(clusters.starts[chosen[0]]), int(clusters.ends[chosen[-1]]))
        same_class = clusters.class_of[chosen, np.newaxis] == clusters.class_of[own]
        similarities[:, own][same_class] = -np.inf
        lists[block] = _nearest(similarities, num_wanted)
    return lists


def _exhaustive(clusters: _Clusters, num_wanted: int) -> npt.NDArray[np.int64]:
    """(M, R) nearest clusters of other classes, by FAISS on all its threads."""
    lists = np.empty((len(clusters), num_wanted), dtype=np.int64)
    # The search may also return clusters of the own class; one extra result reveals a tie.
    num_searched = min(num_wanted + clusters.largest_class + 1, len(clusters))
    for rows in row_blocks(len(clusters), 1, _SEARCHED_ROWS, clusters.on_step):
        cosines, found = faiss.knn(
            clusters.centroids[rows],
            clusters.centroids,
            num_searched,
            metric=faiss.METRIC_INNER_PRODUCT,
        )
        lists[rows], last = _of_other_classes(clusters, rows, found, cosines, num_wanted)
        if num_searched < len(clusters):
            # What equals the last one found may have been left out, whatever its number.
            tied = np.flatnonzero(last <= cosines[:, -1]) + rows.start
            lists[tied] = _compared_with_all(clusters, tied, num_wanted)
    return lists


def _approximate(clusters: _Clusters, num_wanted: int) -> npt.NDArray[np.int64]:
    """(M, R) clusters of other classes, nearly all of them the nearest."""
    lists = np.full((len(clusters), num_wanted), -1, dtype=np.int64)
    if clusters.num_classes <= _FEW_CLASSES:
        _, group_of = np.unique(clusters.class_of, return_inverse=True)
        apart = np.ones(len(clusters), dtype=np.bool_)
    else:
        # Clusters of the own class are found too; if it has many, few others are found.
        num_found = min(num_wanted + min(clusters.largest_class, num_wanted), len(clusters))
        for rows, found, cosines in near_candidates(
            clusters.centroids, num_found, on_step=clusters.on_step
        ):
            lists[rows], _ = _of_other_classes(clusters, rows, found, cosines, num_wanted)
        is_large = clusters.ends - clusters.starts > num_wanted
        _, group_of = np.unique(np.where(is_large, clusters.starts, -1), return_inverse=True)
        apart = is_large & _is_short(clusters, lists)
    if np.count_nonzero(apart) >= _LISTS_PER_SEARCH * int(group_of.max()).bit_length():
        lists[apart] = _of_other_groups(clusters, group_of, num_wanted)[apart]
    numbers = np.flatnonzero(_is_short(clusters, lists))
    lists[numbers] = _compared_with_all(clusters, numbers, num_wanted)
    return lists


def _is_short(clusters: _Clusters, lists: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(M,) whether a list lacks clusters although there are others."""
    num_others = len(clusters) - (clusters.ends - clusters.starts)
    short: npt.NDArray[np.bool_] = np.count_nonzero(lists >= 0, axis=1) < np.minimum(
        lists.shape[1], num_others
    )
    return short


def _of_other_groups(
    clusters: _Clusters, group_of: npt.NDArray[np.int64], num_wanted: int
) -> npt.NDArray[np.int64]:
    """(M, R) clusters of other groups, nearly all of them the nearest.

    The numbers of two groups differ in at least one bit. So each bit splits the groups into two
    sides, and near clusters on the other side are found: after as many searches as the largest
    number has bits, each group has been searched from every other.

    Args:
        clusters: all of them.
        group_of: (M,) int64 >= 0; the clusters of a class are of one group.
        num_wanted: R.
    """
    lists = np.full((len(clusters), num_wanted), -1, dtype=np.int64)
    nearness = np.full(lists.shape, -np.inf, dtype=np.float32)
    for bit in range(int(group_of.max()).bit_length()):
        side = (group_of >> bit & 1).astype(np.bool_)
        for rows, found, cosines in near_candidates(
            clusters.centroids, num_wanted, side=side, on_step=clusters.on_step
        ):
            known = np.any(found[:, :, np.newaxis] == lists[rows, np.newaxis], axis=2)
            both = np.concatenate([lists[rows], np.where(known, -1, found)], axis=1)
            both_cosines = np.concatenate(
                [nearness[rows], np.where(known, -np.inf, cosines)], axis=1
            )
            order = np.lexsort((both, -both_cosines), axis=1)[:, :num_wanted]
            lists[rows] = np.take_along_axis(both, order, axis=1)
            nearness[rows] = np.take_along_axis(both_cosines, order, axis=1)
    return lists


def _of_other_classes(
    clusters: _Clusters,
    rows: slice,
    found: npt.NDArray[np.int64],
    cosines: npt.NDArray[np.float32],
    num_wanted: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Keep the nearest of the clusters found that are of other classes.

    Args:
        clusters: all of them.
        rows: the clusters that the lists are of.
        found: (rows, k) their nearest clusters, -1 for none.
        cosines: (rows, k) with those.
        num_wanted: R.

    Returns:
        (rows, R), -1 where there are fewer, and the cosine of the last one, -inf where there is
        none.
    """
    of_other = (found >= 0) & (clusters.class_of[found] != clusters.class_of[rows, np.newaxis])
    cosines = np.where(of_other, cosines, -np.inf)
    order = np.lexsort((found, -cosines), axis=1)[:, :num_wanted]
    cosines = np.take_along_axis(cosines, order, axis=1)
    lists = np.full((len(found), num_wanted), -1, dtype=np.int64)
    lists[:, : order.shape[1]] = np.where(
        np.isneginf(cosines), -1, np.take_along_axis(found, order, axis=1)
    )
    return lists, cosines[:, -1]


def _nearest(
    similarities: npt.NDArray[np.float32], num_wanted: int, first_column: int = 0
) -> npt.NDArray[np.int64]:
    num_there = min(num_wanted, similarities.shape[1])
    columns, entries = top_k(similarities, num_there)
    nearest = np.full((len(similarities), num_wanted), -1, dtype=np.int64)
    nearest[:, :num_there] = np.where(np.isneginf(entries), -1, columns + first_column)
    return nearest
