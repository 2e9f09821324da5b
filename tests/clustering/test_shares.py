from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest

from clustering import shares
from clustering.shares import UNITS, Moves, Share, cluster_sums, in_units
from tests.helpers.reference_clustering import unit_rows

ROWS = unit_rows(np.random.default_rng(0), 50, 4)
CENTROIDS = unit_rows(np.random.default_rng(1), 5, 4)


def _share(start: int = 0, end: int = 50) -> Share:
    rows = ROWS[start:end]
    return Share(lambda first, stop: rows[first:stop], len(rows), first_row=start)


def test_sums_of_members() -> None:
    assignment = np.random.default_rng(2).integers(0, 4, size=50)  # cluster 4 has none
    expected = [ROWS[assignment == j].astype(np.float64).sum(axis=0) for j in range(5)]
    sums = cluster_sums(in_units(ROWS), assignment, 5)
    np.testing.assert_allclose(sums / UNITS, expected, atol=1e-9)
    assert cluster_sums(in_units(ROWS[:0]), assignment[:0], 2).tolist() == [[0] * 4] * 2


def test_sums_of_chosen_rows() -> None:
    assignment = np.random.default_rng(2).integers(0, 5, size=50)
    chosen = np.random.default_rng(3).random(50) < 0.3
    units = in_units(ROWS)
    sums = cluster_sums(units, assignment, 5, chosen)
    assert sums.tolist() == cluster_sums(units[chosen], assignment[chosen], 5).tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_units_are_whole_and_add_up_in_any_order(dtype: type) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, size=10_000).astype(dtype)
    values[:3] = (1, -1, 1e-20)
    units = in_units(values)
    assert units.tolist() == [float(round(float(value) * 2**36)) for value in values]
    assert units.sum() == units[::-1].cumsum()[-1]


def test_a_step_gives_each_row_to_its_nearest_centroid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "CHUNK_ROWS", 8)
    totals = _share().step(CENTROIDS)
    cosines = ROWS @ CENTROIDS.T
    nearest = cosines.argmax(axis=1)
    np.testing.assert_array_equal(totals.counts, np.bincount(nearest, minlength=5))
    sums = cluster_sums(in_units(ROWS), nearest, 5)
    assert totals.sums.tolist() == sums.tolist()
    assert totals.mean_cosine == pytest.approx(cosines.max(axis=1).mean(), abs=1e-6)
    assert totals.changed == np.count_nonzero(nearest)


def test_totals_of_shares_add_up_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "CHUNK_ROWS", 8)
    whole = _share().step(CENTROIDS)
    parts = [_share(*ends).step(CENTROIDS) for ends in ((0, 8), (8, 8), (8, 32), (32, 50))]
    for some in (parts, parts[::-1]):
        total = reduce(add, some)
        assert total.sums.tobytes() == whole.sums.tobytes()
        assert (total.objective, total.changed) == (whole.objective, whole.changed)


def test_farthest_rows_are_not_those_that_are_alone() -> None:
    share = _share()
    totals = share.step(CENTROIDS)
    cosines = (ROWS @ CENTROIDS.T).max(axis=1)
    found, positions = share.farthest(3, totals.counts, 1.0)
    assert positions.tolist() == np.argsort(cosines)[:3].tolist()
    assert found.tolist() == sorted(found.tolist())
    alone = totals.counts.copy()
    alone[:] = 1
    assert len(share.farthest(3, alone, 1.0)[1]) == 0


def test_rows_are_taken_by_their_place_in_the_class() -> None:
    share = _share(16, 40)
    assert share.take(np.array([3, 16, 20, 39, 40])).tolist() == ROWS[[16, 20, 39]].tolist()
    assert len(share.take(np.array([3]))) == 0


def test_moves_are_those_that_lose_the_least() -> None:
    share = _share()
    totals = share.step(CENTROIDS)
    full = int(totals.counts.argmax())
    limits = np.where(np.arange(5) == full, 3, 0)
    moves = share.moves(CENTROIDS, limits, np.arange(5) != full)
    cosines = ROWS @ CENTROIDS.T
    members = np.flatnonzero(cosines.argmax(axis=1) == full)
    others = np.delete(cosines, full, axis=1).max(axis=1)
    loss = cosines[members, full] - others[members]
    assert moves.position.tolist() == members[np.argsort(loss)[:3]].tolist()
    share.move(moves.position, moves.target)
    assert share.measure(5, 4).counts[full] == totals.counts[full] - 3


def test_moves_are_cut_after_joining() -> None:
    one = Moves(np.array([0, 0]), np.float32([0.1, 0.3]), np.array([5, 6]), np.array([1, 1]))
    two = Moves(np.array([0, 2]), np.float32([0.2, 0.1]), np.array([1, 2]), np.array([1, 0]))
    moves = Moves.of_all([one, two], np.array([2, 0, 1]))
    assert moves.position.tolist() == [5, 1, 2]
