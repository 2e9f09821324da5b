from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest

from clustering.config import ClusterConfig
from clustering.kmeans.lloyd import KMeansResult
from clustering.kmeans.one_class import spherical_kmeans
from tests.helpers import reference_clustering as reference


def _config(iterations: int, **others: Any) -> ClusterConfig:
    return ClusterConfig(iterations=iterations, tolerance=0.0, **others)


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
    assert result.assignment.dtype == np.int32
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
    result = spherical_kmeans(rows, num_clusters, config=_config(10), seed=1)
    assert len(result.centroids) == num_clusters
    assert (result.iterations == 0) == (num_clusters == 1)
    assert result.iterations <= 10
    _check(rows, result)


def test_the_best_of_some_seeds_finds_clear_blobs() -> None:
    """Not every seed: two random rows of one blob to start from may stay there."""
    rows = _blobs(5, 30)
    results = [spherical_kmeans(rows, 5, config=_config(20), seed=s) for s in range(10)]
    best = max(results, key=lambda result: result.objective)
    _check(rows, best)
    assert best.assignment.tolist() == np.repeat(range(5), 30).tolist()


def test_is_as_good_as_lloyd() -> None:
    """Over some seeds: both start from random rows, not from the same."""
    rows = _rows(150, dim=4)
    ours = [spherical_kmeans(rows, 6, config=_config(15), seed=s).objective for s in range(6)]
    theirs = [reference.lloyd(rows, 6, 15, seed=s) for s in range(6)]
    assert np.mean(ours) > np.mean(theirs) - 0.01


def test_more_clusters_are_closer_to_their_rows() -> None:
    rows = _rows(200)
    objectives = [
        spherical_kmeans(rows, k, config=_config(10), seed=0).objective for k in (1, 4, 20, 200)
    ]
    assert objectives == sorted(objectives)
    assert objectives[-1] == pytest.approx(1.0, abs=1e-6)


def test_nearly_all_rows_are_with_their_nearest_centroid() -> None:
    """Not all: the means move a last time after the assignment."""
    rows = _rows(500)
    result = spherical_kmeans(rows, 8, config=_config(40), seed=0)
    nearest = (rows @ result.centroids.T).argmax(axis=1)
    assert np.mean(nearest == result.assignment) > 0.98


def test_one_sample() -> None:
    rows = _rows(1)
    result = spherical_kmeans(rows, 1, config=_config(5), seed=0)
    _check(rows, result)
    assert result.concentration[0] == pytest.approx(1.0)


@pytest.mark.parametrize("num_clusters", [2, 10, 50])
def test_fewer_distinct_rows_than_clusters(num_clusters: int) -> None:
    distinct = _rows(5)
    rows = np.repeat(distinct, 10, axis=0)
    for seed in range(10):
        result = spherical_kmeans(rows, num_clusters, config=_config(10), seed=seed)
        _check(rows, result)
        assert len(result.centroids) <= 5
        if num_clusters >= 10:
            assert len(result.centroids) == 5
            assert result.objective == pytest.approx(1.0, abs=1e-6)


def test_identical_rows_are_one_cluster() -> None:
    rows = np.repeat(_rows(1), 30, axis=0)
    result = spherical_kmeans(rows, 4, config=_config(10), seed=0)
    _check(rows, result)
    assert len(result.centroids) == 1
    assert result.spread[0] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("num_clusters", [1, 2])
def test_opposite_rows(num_clusters: int) -> None:
    """Their mean has no direction: the first of them stands in for it."""
    rows = np.concatenate([_rows(1), -_rows(1)])
    result = spherical_kmeans(rows, num_clusters, config=_config(10), seed=0)
    _check(rows, result)
    if num_clusters == 1:
        assert result.centroids.tolist() == rows[:1].tolist()
        assert result.concentration[0] == pytest.approx(0.0, abs=1e-6)
        assert result.spread[0] == pytest.approx(np.pi / 2, abs=1e-3)


@pytest.mark.parametrize("iterations", [1, 10])
def test_an_outlier_gets_a_centroid_that_is_left_without_rows(iterations: int) -> None:
    """Both start from the same row, so that one is empty."""
    rows = np.concatenate([np.repeat(_rows(1), 20, axis=0), _rows(1, seed=9)])
    same = np.repeat(rows[:1], 2, axis=0)
    result = spherical_kmeans(
        rows, 2, config=_config(iterations, init="warm"), seed=0, previous=same
    )
    _check(rows, result)
    assert result.assignment.tolist() == [0] * 20 + [1]


@pytest.mark.parametrize("num_clusters", [0, -1, 6])
def test_a_number_of_clusters_that_does_not_fit(num_clusters: int) -> None:
    with pytest.raises(ValueError, match=rf"must be in 1\.\.5 for 5 rows, got {num_clusters}"):
        spherical_kmeans(_rows(5), num_clusters, config=_config(5), seed=0)


@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_threads_change_no_bit_and_are_left_as_they_were(num_threads: int) -> None:
    rows = _rows(5003, dim=37)
    expected = spherical_kmeans(rows, 23, config=_config(8), seed=5)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(num_threads)
    try:
        result = spherical_kmeans(rows, 23, config=_config(8), seed=5)
        assert faiss.omp_get_max_threads() == num_threads
    finally:
        faiss.omp_set_num_threads(before)
    for name in ("centroids", "assignment", "spread", "concentration"):
        assert getattr(result, name).tobytes() == getattr(expected, name).tobytes()


def test_another_seed_starts_elsewhere() -> None:
    rows = _rows(300)
    one, other = (spherical_kmeans(rows, 9, config=_config(3), seed=s) for s in (0, 1))
    assert one.assignment.tolist() != other.assignment.tolist()


def test_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """FAISS warns of few rows and subsamples many unless it is told not to."""
    spherical_kmeans(_rows(8), 3, config=_config(3), seed=0)
    spherical_kmeans(_rows(2000, dim=2), 3, config=_config(3), seed=0)
    assert capfd.readouterr() == ("", "")


def test_more_rows_than_a_chunk() -> None:
    """No subsampling: the sums are those over all rows."""
    rows = _blobs(3, 4000)
    result = spherical_kmeans(rows, 3, config=_config(10), seed=2)
    _check(rows, result)


@pytest.mark.parametrize("init", ["random", "kmeans++", "warm"])
def test_every_start_gives_valid_clusters(init: str) -> None:
    rows = _rows(120)
    result = spherical_kmeans(rows, 9, config=_config(6, init=init), seed=4)
    assert len(result.centroids) == 9
    _check(rows, result)


def test_kmeans_plus_plus_starts_better() -> None:
    """After one iteration, over some seeds."""
    rows = _blobs(20, 15)
    random, far = (
        np.mean(
            [
                spherical_kmeans(rows, 20, config=_config(1, init=init), seed=s).objective
                for s in range(8)
            ]
        )
        for init in ("random", "kmeans++")
    )
    assert far > random + 0.02


def test_kmeans_plus_plus_of_few_distinct_rows() -> None:
    rows = np.repeat(_rows(3), 10, axis=0)
    result = spherical_kmeans(rows, 6, config=_config(5, init="kmeans++"), seed=0)
    assert len(result.centroids) == 3


def test_a_warm_start_stays_where_it_is_good() -> None:
    rows = _rows(300)
    cold = spherical_kmeans(rows, 8, config=_config(100), seed=0)
    warm = spherical_kmeans(
        rows, 8, config=_config(100, init="warm"), seed=1, previous=cold.centroids
    )
    assert warm.iterations <= 2
    assert warm.assignment.tolist() == cold.assignment.tolist()


@pytest.mark.parametrize("num_earlier", [0, 2, 8, 12])
def test_a_warm_start_from_another_number_of_clusters(num_earlier: int) -> None:
    rows = _rows(100)
    warm = _rows(num_earlier, seed=3) if num_earlier else np.empty((0, 6), dtype=np.float32)
    result = spherical_kmeans(rows, 8, config=_config(5, init="warm"), seed=0, previous=warm)
    assert len(result.centroids) == 8
    _check(rows, result)


def test_a_coarse_tolerance_ends_early() -> None:
    rows = _rows(2000, dim=12)
    fine = spherical_kmeans(rows, 20, config=_config(50), seed=0)
    coarse = spherical_kmeans(rows, 20, config=ClusterConfig(iterations=50, tolerance=0.01), seed=0)
    assert coarse.iterations < fine.iterations
    assert coarse.objective > 0.97 * fine.objective


@pytest.mark.parametrize("smallest", [2, 5, 60, 1000])
def test_small_clusters_are_dissolved(smallest: int) -> None:
    rows = _rows(200, dim=3)
    before = spherical_kmeans(rows, 30, config=_config(5), seed=0)
    result = spherical_kmeans(rows, 30, config=_config(5, min_cluster_size=smallest), seed=0)
    _check(rows, result)
    sizes = np.bincount(result.assignment)
    assert len(sizes) == 1 or sizes.min() >= smallest
    large = np.bincount(before.assignment) >= smallest
    assert len(sizes) == max(1, np.count_nonzero(large))


@pytest.mark.parametrize("balance", [1.0, 1.1, 1.5, 3.0])
def test_the_largest_cluster_is_bounded(balance: float) -> None:
    rows = np.concatenate([_blobs(1, 150), _rows(50, dim=8)])
    free = spherical_kmeans(rows, 7, config=_config(8), seed=0)
    result = spherical_kmeans(rows, 7, config=_config(8, balance=balance), seed=0)
    _check(rows, result)
    bound = np.ceil(balance * 200 / 7)
    assert np.bincount(result.assignment).max() <= bound
    assert len(result.centroids) == 7
    if np.bincount(free.assignment).max() <= bound:
        assert result.assignment.tolist() == free.assignment.tolist()
