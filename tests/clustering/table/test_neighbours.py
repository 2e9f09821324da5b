from __future__ import annotations

import faiss
import numpy as np
import pytest

from clustering.table import neighbours, top_k
from clustering.table.neighbours import neighbour_lists
from tests.helpers import reference_clustering as reference


def _without_padding(lists: np.ndarray) -> list[list[int]]:
    return [[j for j in row if j != -1] for row in lists.tolist()]


@pytest.mark.parametrize("block_entries", [1, 40, 1 << 24])
@pytest.mark.parametrize("counts", [(3, 1, 5, 2), (1, 1, 1), (12, 1), (2, 2, 2, 2, 2, 2)])
def test_equals_the_loops(
    counts: tuple[int, ...], block_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_k, "_BLOCK_ENTRIES", block_entries)
    class_of = np.repeat(np.arange(len(counts)), counts)
    centroids = reference.unit_rows(np.random.default_rng(3), len(class_of), 5)
    got = neighbour_lists(centroids, class_of, neighbours=4, siblings=2)
    expected = reference.neighbour_lists(centroids, class_of, 4, 2)
    for lists, twins in zip(got, expected, strict=True):
        assert _without_padding(lists) == twins


def test_padding_is_at_the_end_and_no_wider_than_needed() -> None:
    class_of = np.array([0, 0, 0, 1])
    centroids = reference.unit_rows(np.random.default_rng(0), 4, 3)
    neighbours, siblings = neighbour_lists(centroids, class_of, neighbours=32, siblings=8)
    assert neighbours.shape == (4, 3)
    assert neighbours[0].tolist() == [3, -1, -1]
    assert sorted(neighbours[3]) == [0, 1, 2]
    assert siblings.shape == (4, 2)
    assert siblings[3].tolist() == [-1, -1]


def test_one_class_has_no_neighbours() -> None:
    centroids = reference.unit_rows(np.random.default_rng(0), 3, 3)
    neighbours, siblings = neighbour_lists(
        centroids, np.zeros(3, dtype=np.int64), neighbours=2, siblings=2
    )
    assert neighbours.shape == (3, 0)
    assert siblings.shape == (3, 2)


def test_equal_centroids_are_listed_by_number() -> None:
    centroids = np.eye(3, dtype=np.float32)[[0, 1, 1, 1, 2]]
    neighbours, siblings = neighbour_lists(
        centroids, np.array([0, 1, 1, 2, 3]), neighbours=4, siblings=1
    )
    assert neighbours[0].tolist() == [1, 2, 3, 4]
    assert siblings[2].tolist() == [1]


@pytest.mark.parametrize("num_classes", [10, 150])
def test_ties_go_to_the_lower_number(num_classes: int) -> None:
    """Of few directions, each of many clusters, so that lists end amid equal ones."""
    rng = np.random.default_rng(num_classes)
    class_of = np.repeat(np.arange(num_classes), 2)
    centroids = np.eye(4, dtype=np.float32)[rng.integers(0, 4, len(class_of))]
    got = neighbour_lists(centroids, class_of, neighbours=5, siblings=1)
    expected = reference.neighbour_lists(centroids, class_of, 5, 1)
    for lists, twins in zip(got, expected, strict=True):
        assert _without_padding(lists) == twins


@pytest.mark.parametrize("num_classes", [1000, 2])
@pytest.mark.parametrize("exact_up_to", [0, 10**6])
def test_threads_change_no_list(
    exact_up_to: int, num_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_LISTS_PER_SEARCH", 1)
    class_of = np.repeat(np.arange(num_classes), 3000 // num_classes)
    centroids = reference.unit_rows(np.random.default_rng(0), 3000, 16)
    before = faiss.omp_get_max_threads()
    lists = []
    try:
        for num_threads in (1, 2, 5):
            faiss.omp_set_num_threads(num_threads)
            lists.append(
                neighbour_lists(
                    centroids, class_of, neighbours=8, siblings=2, exact_up_to=exact_up_to
                )[0]
            )
    finally:
        faiss.omp_set_num_threads(before)
    for other in lists[1:]:
        np.testing.assert_array_equal(other, lists[0])


def test_unsorted_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="sort the clusters by class"):
        neighbour_lists(np.eye(2, dtype=np.float32), np.array([1, 0]), neighbours=1, siblings=1)


@pytest.mark.parametrize("rows_a_search", [1, 8192])
@pytest.mark.parametrize(
    "counts",
    [
        (3, 1, 5, 2) * 60,
        (300, 2, 1, 40),
        (1,) * 300,
        (400, 400),
        (5, 800),
        (300, 200, 400),
        (90,) * 11,
        (300, 70, *(2,) * 60),
    ],
)
@pytest.mark.parametrize("own_direction", [0.0, 2.0])
def test_approximate_neighbours_are_nearly_the_nearest(
    own_direction: float,
    counts: tuple[int, ...],
    rows_a_search: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of other classes all the same, in falling order, also where the own class is nearest;
    siblings are exact."""
    monkeypatch.setattr(neighbours, "_LISTS_PER_SEARCH", rows_a_search)
    class_of = np.repeat(np.arange(len(counts)), counts)
    rng = np.random.default_rng(3)
    centroids = reference.unit_rows(rng, len(class_of), 8)
    centroids += own_direction * reference.unit_rows(rng, len(counts), 8)[class_of]
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    lengths = {"neighbours": 12, "siblings": 3}
    exact = neighbour_lists(centroids, class_of, **lengths)
    got = neighbour_lists(centroids, class_of, **lengths, exact_up_to=10)
    np.testing.assert_array_equal(got[1], exact[1])
    assert got[0].shape == exact[0].shape
    np.testing.assert_array_equal(got[0] == -1, exact[0] == -1)
    assert np.all((class_of[got[0]] != class_of[:, np.newaxis]) | (got[0] == -1))
    cosines = np.einsum("md,mrd->mr", centroids, centroids[got[0]])
    assert np.all((np.diff(cosines, axis=1) <= 1e-6) | (got[0][:, 1:] == -1))
    for lists in got[0]:
        assert len(set(lists[lists >= 0])) == np.count_nonzero(lists >= 0)
    found = [
        len(set(g) & set(e) - {-1}) for g, e in zip(got[0].tolist(), exact[0].tolist(), strict=True)
    ]
    assert np.sum(found) > 0.98 * np.count_nonzero(exact[0] >= 0)
    again = neighbour_lists(centroids, class_of, **lengths, exact_up_to=10)
    np.testing.assert_array_equal(again[0], got[0])


def test_no_lists_take_no_time() -> None:
    centroids = np.ones((10**6, 1), dtype=np.float32)
    lists = neighbour_lists(centroids, np.arange(10**6), neighbours=0, siblings=0)
    assert [each.shape for each in lists] == [(10**6, 0)] * 2
