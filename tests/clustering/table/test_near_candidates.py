from __future__ import annotations

import numpy as np
import pytest

from clustering.table import near_candidates as module
from clustering.table.near_candidates import near_candidates
from tests.helpers.reference_clustering import unit_rows


def _found(
    vectors: np.ndarray, num_wanted: int, side: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    rows, found, cosines = zip(*near_candidates(vectors, num_wanted, side=side), strict=True)
    assert [part.start for part in rows] == [0, *(part.stop for part in rows[:-1])]
    assert rows[-1].stop == len(vectors)
    return np.concatenate(found), np.concatenate(cosines)


@pytest.mark.parametrize("dim", [33, 64])
@pytest.mark.parametrize("num_vectors", [256, 2000])
def test_most_of_the_nearest_are_found_in_falling_order(num_vectors: int, dim: int) -> None:
    vectors = unit_rows(np.random.default_rng(dim), num_vectors, dim)
    found, cosines = _found(vectors, 12)
    expected = np.einsum("nd,nkd->nk", vectors, vectors[found])
    np.testing.assert_allclose(cosines[found >= 0], expected[found >= 0], atol=1e-6)
    assert np.isneginf(cosines[found < 0]).all()
    assert np.all(cosines[:, 1:] <= cosines[:, :-1])
    nearest = np.argsort(-vectors @ vectors.T, axis=1)[:, :12]
    shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), nearest.tolist(), strict=True)]
    assert np.mean(shared) > 0.93 * 12


def test_vectors_are_the_same_when_they_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit_rows(np.random.default_rng(0), 2000, 24)
    expected = _found(vectors, 12)
    monkeypatch.setattr(module, "_ADDED_ROWS", 300)
    for whole, in_blocks in zip(expected, _found(vectors, 12), strict=True):
        np.testing.assert_array_equal(whole, in_blocks)


@pytest.mark.parametrize("on_one_side", [1, 5, 200, 1000])
def test_most_of_the_nearest_on_the_other_side_are_found(on_one_side: int) -> None:
    vectors = unit_rows(np.random.default_rng(0), 2000, 24)
    side = np.random.default_rng(1).permutation(2000) < on_one_side
    found, cosines = _found(vectors, 12, side)
    assert np.all((side[found] != side[:, np.newaxis]) | (found == -1))
    there = np.count_nonzero(found >= 0, axis=1)
    assert np.all(there[~side] == min(12, on_one_side))
    assert np.all(there[side] == 12)
    expected = np.einsum("nd,nkd->nk", vectors, vectors[found])
    np.testing.assert_allclose(cosines[found >= 0], expected[found >= 0], atol=1e-6)
    similarities = np.where(side != side[:, np.newaxis], vectors @ vectors.T, -np.inf)
    nearest = np.argsort(-similarities, axis=1)[:, :12]
    shared = [
        len(set(a[:n]) & set(b[:n]))
        for a, b, n in zip(found.tolist(), nearest.tolist(), there.tolist(), strict=True)
    ]
    assert np.sum(shared) > 0.97 * there.sum()


def test_vectors_in_groups() -> None:
    """Near vectors, as the clusters of a class or of alike classes are: nearly none is missed."""
    rng = np.random.default_rng(0)
    centres = np.repeat(unit_rows(rng, 250, 32), 16, axis=0)
    vectors = centres + 0.08 * rng.normal(size=centres.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found, _ = _found(vectors, 16)
    assert np.mean(found // 16 == np.arange(len(vectors))[:, np.newaxis] // 16) > 0.99


def test_equal_vectors() -> None:
    """More of them than are wanted: any will do, in ascending order, and nothing twice."""
    vectors = np.repeat(unit_rows(np.random.default_rng(0), 3, 8), 100, axis=0)
    found, cosines = _found(vectors, 5)
    np.testing.assert_allclose(cosines, 1.0, atol=1e-6)
    assert np.all(np.diff(found, axis=1) > 0)
    assert np.all(found // 100 == np.arange(300)[:, np.newaxis] // 100)


def test_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """FAISS warns of few rows to train with unless it is told not to."""
    _found(unit_rows(np.random.default_rng(0), 256, 4), 2)
    assert capfd.readouterr() == ("", "")
