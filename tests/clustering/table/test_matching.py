from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import faiss
import numpy as np
import pytest

from clustering.table import matching
from clustering.table.matching import matched_order
from clustering.table.table import ClusterTable
from tests.helpers.cluster_tables import tiny_table
from tests.helpers.reference_clustering import greedy_places, unit_rows


def _earlier(counts: tuple[int, ...], seed: int = 0) -> ClusterTable:
    table = tiny_table(clusters_per_class=counts)
    return replace(table, centroids=unit_rows(np.random.default_rng(seed), sum(counts), 5))


def test_a_shuffled_table_is_put_in_order() -> None:
    earlier = _earlier((3, 1, 4))
    shuffle = np.array([2, 0, 1, 3, 7, 5, 4, 6])
    order = matched_order(earlier.centroids[shuffle], earlier.class_of, earlier)
    assert shuffle[order].tolist() == list(range(8))


@pytest.mark.parametrize("seed", range(5))
def test_the_sum_of_cosines_is_largest(seed: int) -> None:
    earlier = _earlier((4,), seed)
    centroids = unit_rows(np.random.default_rng(seed + 10), 4, 5)
    order = matched_order(centroids, np.zeros(4, dtype=np.int64), earlier)
    best = max(
        permutations(range(4)),
        key=lambda p: sum(float(centroids[i] @ earlier.centroids[j]) for j, i in enumerate(p)),
    )
    assert order.tolist() == list(best)


@pytest.mark.parametrize("limit", [0, 2000])
@pytest.mark.parametrize("num_new", [1, 2, 3, 6])
def test_another_number_of_clusters(
    num_new: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "_LARGEST_EXACT", limit)
    earlier = _earlier((3,))
    extra = unit_rows(np.random.default_rng(5), 6, 5)
    centroids = np.concatenate([extra, earlier.centroids[::-1]])[-num_new:]
    order = matched_order(centroids, np.zeros(num_new, dtype=np.int64), earlier)
    assert sorted(order.tolist()) == list(range(num_new))
    kept = min(num_new, 3)
    if num_new >= 3:
        np.testing.assert_array_equal(centroids[order[:kept]], earlier.centroids[:kept])


def test_a_class_that_was_not_there_keeps_its_order() -> None:
    earlier = _earlier((2,))
    class_of = np.array([0, 0, 1, 1])
    centroids = np.concatenate([earlier.centroids, earlier.centroids])
    assert matched_order(centroids, class_of, earlier).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("counts", [(40, 40), (40, 25), (25, 40), (30, 3), (1, 30)])
def test_large_classes_equal_the_loops(
    counts: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of so few dimensions that many want the same partner, and some are left without."""
    monkeypatch.setattr(matching, "_LARGEST_EXACT", 0)
    monkeypatch.setattr(matching, "_CANDIDATES", 4)
    monkeypatch.setattr(matching, "_PAIRS_AT_A_TIME", 7)
    num_new, num_old = counts
    earlier = _earlier((num_old,))
    centroids = unit_rows(np.random.default_rng(1), num_new, 5)
    order = matched_order(centroids, np.zeros(num_new, dtype=np.int64), earlier)
    assert np.argsort(order).tolist() == greedy_places(centroids, earlier.centroids, 4)


@pytest.mark.parametrize("num_directions", [6, 3000])
def test_a_large_class_is_ordered_alike_by_any_number_of_threads(num_directions: int) -> None:
    """Also one of equal centroids, more of them than a cluster has candidates."""
    rng = np.random.default_rng(0)
    directions = unit_rows(rng, num_directions, 5)
    earlier = replace(_earlier((3000,)), centroids=directions[np.arange(3000) % num_directions])
    centroids = earlier.centroids[rng.permutation(3000)]
    before, orders = faiss.omp_get_max_threads(), []
    try:
        for num_threads in (1, 2, 5):
            faiss.omp_set_num_threads(num_threads)
            orders.append(matched_order(centroids, earlier.class_of, earlier))
    finally:
        faiss.omp_set_num_threads(before)
    for order in orders:
        np.testing.assert_array_equal(order, orders[0])
        np.testing.assert_array_equal(np.sort(order), np.arange(3000))
    if num_directions == 3000:
        np.testing.assert_array_equal(centroids[orders[0]], earlier.centroids)
