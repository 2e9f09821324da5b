from __future__ import annotations

import faiss
import numpy as np
import pytest

from clustering.kmeans import KMeansResult, spherical_kmeans
from tests.helpers import reference_clustering as reference


def _rows(num_rows: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    return reference.unit_rows(np.random.default_rng(seed), num_rows, dim)


def _blobs(num_blobs: int, size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.repeat(reference.unit_rows(rng, num_blobs, 8), size, axis=0)
    rows = centres + 0.1 * rng.normal(size=centres.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _check(rows: np.ndarray, result: KMeansResult) -> None:
    """What holds for every result, from the definitions."""
    num_clusters = len(result.centroids)
    assert result.assignment.shape == (len(rows),)
    assert result.assignment.dtype == np.int64
    assert sorted(set(result.assignment.tolist())) == list(range(num_clusters))
    first = [int(np.argmax(result.assignment == j)) for j in range(num_clusters)]
    assert first == sorted(first)
    centroids, spread, concentration = reference.cluster_shapes(rows, result.assignment)
    np.testing.assert_allclose(result.centroids, centroids, atol=1e-6)
    np.testing.assert_allclose(result.spread, spread, atol=1e-3)
    np.testing.assert_allclose(result.concentration, concentration, atol=1e-6)
    cosines = [row @ result.centroids[j] for row, j in zip(rows, result.assignment, strict=True)]
    assert result.objective == pytest.approx(np.mean(cosines), abs=1e-6)


@pytest.mark.parametrize(("num_rows", "num_clusters"), [(60, 4), (50, 1), (7, 7), (40, 39), (2, 2)])
def test_members_centroids_and_spreads_fit_together(num_rows: int, num_clusters: int) -> None:
    rows = _rows(num_rows)
    result = spherical_kmeans(rows, num_clusters, iterations=10, seed=1)
    assert len(result.centroids) == num_clusters
    assert result.iterations == (0 if num_clusters == 1 else 10)
    _check(rows, result)


def test_the_best_of_some_seeds_finds_clear_blobs() -> None:
    """Not every seed: two random rows of one blob to start from may stay there."""
    rows = _blobs(5, 30)
    results = [spherical_kmeans(rows, 5, iterations=20, seed=s) for s in range(10)]
    best = max(results, key=lambda result: result.objective)
    _check(rows, best)
    assert best.assignment.tolist() == np.repeat(range(5), 30).tolist()


def test_is_as_good_as_lloyd() -> None:
    """Over some seeds: both start from random rows, not from the same."""
    rows = _rows(150, dim=4)
    ours = [spherical_kmeans(rows, 6, iterations=15, seed=s).objective for s in range(6)]
    theirs = [reference.lloyd(rows, 6, 15, seed=s) for s in range(6)]
    assert np.mean(ours) > np.mean(theirs) - 0.01


def test_more_clusters_are_closer_to_their_rows() -> None:
    rows = _rows(200)
    objectives = [
        spherical_kmeans(rows, k, iterations=10, seed=0).objective for k in (1, 4, 20, 200)
    ]
    assert objectives == sorted(objectives)
    assert objectives[-1] == pytest.approx(1.0, abs=1e-6)


def test_nearly_all_rows_are_with_their_nearest_centroid() -> None:
    """Not all: the means move a last time after the assignment."""
    rows = _rows(500)
    result = spherical_kmeans(rows, 8, iterations=40, seed=0)
    nearest = (rows @ result.centroids.T).argmax(axis=1)
    assert np.mean(nearest == result.assignment) > 0.98


def test_one_sample() -> None:
    rows = _rows(1)
    result = spherical_kmeans(rows, 1, iterations=5, seed=0)
    _check(rows, result)
    assert result.concentration[0] == pytest.approx(1.0)


@pytest.mark.parametrize("num_clusters", [2, 10, 50])
def test_fewer_distinct_rows_than_clusters(num_clusters: int) -> None:
    distinct = _rows(5)
    rows = np.repeat(distinct, 10, axis=0)
    for seed in range(10):
        result = spherical_kmeans(rows, num_clusters, iterations=10, seed=seed)
        _check(rows, result)
        assert len(result.centroids) <= 5
        if num_clusters >= 10:
            assert len(result.centroids) == 5
            assert result.objective == pytest.approx(1.0, abs=1e-6)


def test_identical_rows_are_one_cluster() -> None:
    rows = np.repeat(_rows(1), 30, axis=0)
    result = spherical_kmeans(rows, 4, iterations=10, seed=0)
    _check(rows, result)
    assert len(result.centroids) == 1
    assert result.spread[0] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("num_clusters", [1, 2])
def test_opposite_rows(num_clusters: int) -> None:
    """Their mean has no direction: the first of them stands in for it."""
    rows = np.concatenate([_rows(1), -_rows(1)])
    result = spherical_kmeans(rows, num_clusters, iterations=10, seed=0)
    _check(rows, result)
    if num_clusters == 1:
        assert result.centroids.tolist() == rows[:1].tolist()
        assert result.concentration[0] == pytest.approx(0.0, abs=1e-6)
        assert result.spread[0] == pytest.approx(np.pi / 2, abs=1e-3)


def test_an_outlier_gets_a_centroid_that_is_left_without_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FAISS's centroids replaced by two at the same place, so that one is empty."""
    rows = np.concatenate([np.repeat(_rows(1), 20, axis=0), _rows(1, seed=9)])
    same = np.repeat(rows[:1], 2, axis=0)
    monkeypatch.setattr("clustering.kmeans._train", lambda *_: same)
    result = spherical_kmeans(rows, 2, iterations=10, seed=0)
    _check(rows, result)
    assert result.assignment.tolist() == [0] * 20 + [1]


@pytest.mark.parametrize("num_clusters", [0, -1, 6])
def test_a_number_of_clusters_that_does_not_fit(num_clusters: int) -> None:
    with pytest.raises(ValueError, match=rf"must be in 1\.\.5 for 5 rows, got {num_clusters}"):
        spherical_kmeans(_rows(5), num_clusters, iterations=5, seed=0)


@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_threads_change_no_bit_and_are_left_as_they_were(num_threads: int) -> None:
    rows = _rows(5003, dim=37)
    expected = spherical_kmeans(rows, 23, iterations=8, seed=5)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(num_threads)
    try:
        result = spherical_kmeans(rows, 23, iterations=8, seed=5)
        assert faiss.omp_get_max_threads() == num_threads
    finally:
        faiss.omp_set_num_threads(before)
    for name in ("centroids", "assignment", "spread", "concentration"):
        assert getattr(result, name).tobytes() == getattr(expected, name).tobytes()


def test_another_seed_starts_elsewhere() -> None:
    rows = _rows(300)
    one, other = (spherical_kmeans(rows, 9, iterations=3, seed=s) for s in (0, 1))
    assert one.assignment.tolist() != other.assignment.tolist()


def test_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """FAISS warns of few rows and subsamples many unless it is told not to."""
    spherical_kmeans(_rows(8), 3, iterations=3, seed=0)
    spherical_kmeans(_rows(2000, dim=2), 3, iterations=3, seed=0)
    assert capfd.readouterr() == ("", "")


def test_every_row_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No subsampling: FAISS sums over all of far more than 256 rows a centroid."""
    kept = []

    class Spy(faiss.Kmeans):
        def train(self, x: np.ndarray) -> float:
            result = super().train(x)
            kept.append(self.obj[-1])
            return result

    monkeypatch.setattr(faiss, "Kmeans", Spy)
    rows = _blobs(2, 1000)
    spherical_kmeans(rows, 2, iterations=10, seed=0)
    assert kept[0] > 0.8 * len(rows)
