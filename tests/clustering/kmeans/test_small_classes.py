from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clustering.config import ClusterConfig
from clustering.kmeans import small_classes
from clustering.kmeans.backends import one_thread
from clustering.kmeans.lloyd import KMeansResult
from clustering.kmeans.one_class import spherical_kmeans
from clustering.kmeans.small_classes import cluster_small_classes
from tests.helpers.reference_clustering import unit_rows

SIZES = np.array([30, 2, 7, 117, 12, 12, 64])
COUNTS = np.array([3, 2, 7, 11, 2, 5, 31])
STARTS = np.cumsum(SIZES) - SIZES
SEEDS = list(range(7))
COLD: list[np.ndarray | None] = [None] * 7


def _rows(dim: int, kind: str = "plain") -> np.ndarray:
    rng = np.random.default_rng(dim)
    rows = unit_rows(rng, int(SIZES.sum()), dim)
    if kind == "duplicates":
        rows = rows[rng.integers(0, len(rows) // 5, len(rows))]
    elif kind == "opposite":
        rows[1::2] = -rows[::2][: len(rows[1::2])]
    return rows


def _check(rows: np.ndarray, previous: list[np.ndarray | None] = COLD, **settings: Any) -> None:
    """Each class is what `spherical_kmeans` makes of it alone, to the last bit."""
    config = ClusterConfig(**settings)
    with one_thread():
        results = cluster_small_classes(
            rows, SIZES, COUNTS, config=config, seeds=SEEDS, previous=previous
        )
    for number, got in enumerate(results):
        part = slice(STARTS[number], STARTS[number] + SIZES[number])
        expected = spherical_kmeans(
            rows[part], COUNTS[number], config=config, seed=SEEDS[number], previous=previous[number]
        )
        _assert_same(got, expected)


def _assert_same(got: KMeansResult, expected: KMeansResult) -> None:
    for name in ("centroids", "assignment", "spread", "concentration"):
        one, other = getattr(got, name), getattr(expected, name)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes(), name
    assert got.iterations == expected.iterations
    assert got.objective == pytest.approx(expected.objective, abs=1e-9)


@pytest.mark.parametrize("kind", ["plain", "duplicates", "opposite"])
@pytest.mark.parametrize("dim", [1, 3, 37])
@pytest.mark.parametrize("iterations", [1, 2, 20])
def test_equals_each_class_alone(kind: str, dim: int, iterations: int) -> None:
    _check(_rows(dim, kind), iterations=iterations)


@pytest.mark.parametrize("tolerance", [0.0, 1e-2])
@pytest.mark.parametrize("init", ["random", "kmeans++"])
def test_equals_each_class_alone_for_every_setting(tolerance: float, init: str) -> None:
    _check(_rows(5), tolerance=tolerance, init=init)


@pytest.mark.parametrize("kind", ["plain", "duplicates"])
@pytest.mark.parametrize(("smallest", "balance"), [(3, 0.0), (1, 1.0), (4, 1.5), (1000, 0.0)])
def test_clusters_of_a_wrong_size_are_mended_alike(
    kind: str, smallest: int, balance: float
) -> None:
    _check(_rows(4, kind), min_cluster_size=smallest, balance=balance)


def test_equals_each_class_alone_from_a_warm_start() -> None:
    """Also where a warm centroid gets no row, and where there are fewer than wanted."""
    rows = _rows(6)
    warm = [
        rows[start : start + count // 2 + 1] for start, count in zip(STARTS, COUNTS, strict=True)
    ]
    warm[3] = np.repeat(rows[:1], COUNTS[3], axis=0)
    _check(rows, [*warm[:5], None, warm[6]], init="warm")


def test_a_class_without_an_empty_cluster_is_not_done_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = [
        spherical_kmeans(rows, count, config=ClusterConfig(), seed=seed)
        for rows, count, seed in zip(
            np.split(_rows(16), STARTS[1:]), COUNTS.tolist(), SEEDS, strict=True
        )
    ]
    monkeypatch.delattr(small_classes, "spherical_kmeans")
    with one_thread():
        results = cluster_small_classes(
            _rows(16), SIZES, COUNTS, config=ClusterConfig(), seeds=SEEDS, previous=COLD
        )
    for got, alone in zip(results, expected, strict=True):
        _assert_same(got, alone)
