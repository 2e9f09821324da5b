from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest

from clustering.kmeans import shares
from clustering.kmeans.exact_sums import cluster_sums, in_units
from clustering.kmeans.shares import Moves, Share, ShareState, Totals
from tests.helpers.reference_clustering import unit_rows

ROWS = unit_rows(np.random.default_rng(0), 50, 4)
CENTROIDS = unit_rows(np.random.default_rng(1), 5, 4)


def _share(start: int = 0, end: int = 50, state: ShareState | None = None) -> Share:
    rows = ROWS[start:end]
    return Share(lambda first, stop: rows[first:stop], len(rows), first_row=start, state=state)


def test_a_step_gives_each_row_to_its_nearest_centroid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "CHUNK_ROWS", 8)
    totals = _share().step(CENTROIDS)
    cosines = ROWS @ CENTROIDS.T
    nearest = cosines.argmax(axis=1)
    np.testing.assert_array_equal(totals.counts, np.bincount(nearest, minlength=5))
    sums = cluster_sums(in_units(ROWS), nearest, 5)
    assert totals.sums.tolist() == sums.tolist()
    assert totals.mean_cosine == pytest.approx(cosines.max(axis=1).mean(), abs=1e-6)
    assert totals.changed == 50


def test_totals_of_shares_add_up_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "CHUNK_ROWS", 8)
    whole = _share().step(CENTROIDS)
    parts = [_share(*ends).step(CENTROIDS) for ends in ((0, 8), (8, 8), (8, 32), (32, 50))]
    for some in (parts, parts[::-1]):
        total = reduce(add, some)
        assert total.sums.tobytes() == whole.sums.tobytes()
        assert (total.objective, total.changed) == (whole.objective, whole.changed)


@pytest.mark.parametrize("ends", [[(0, 50)], [(0, 8), (8, 8), (8, 32), (32, 50)]])
def test_changes_add_up_to_the_clusters_as_they_are(
    ends: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where clusters empty and fill again, and a share goes on in another process."""
    monkeypatch.setattr(shares, "CHUNK_ROWS", 8)
    rng = np.random.default_rng(4)
    far = CENTROIDS.copy()
    far[1:4] = -ROWS.mean(axis=0)  # the first of equal ones takes all, so two are empty
    parts = [_share(*own) for own in ends]
    totals = Totals.nothing(5, 4)
    for centroids in (CENTROIDS, far, far, unit_rows(rng, 5, 4)):
        totals = reduce(add, [share.step(centroids) for share in parts], totals)
        moved, targets = np.sort(rng.choice(50, 7, replace=False)), rng.integers(0, 5, 7)
        totals = reduce(add, [share.move(moved, targets, 5, 4) for share in parts], totals)
        assignment = np.concatenate([share.state.assignment for share in parts])
        cosines = np.concatenate([share.state.cosines for share in parts])
        assert totals.sums.tolist() == cluster_sums(in_units(ROWS), assignment, 5).tolist()
        assert totals.counts.tolist() == np.bincount(assignment, minlength=5).tolist()
        assert totals.objective == in_units(cosines).sum()
        parts = [_share(*own, state=share.state) for own, share in zip(ends, parts, strict=True)]


def test_a_step_to_where_the_rows_are_changes_nothing() -> None:
    share = _share()
    share.step(CENTROIDS)
    change = share.step(CENTROIDS)
    assert not change.sums.any()
    assert not change.counts.any()
    assert (change.objective, change.changed) == (0, 0)


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
    change = share.move(moves.position, moves.target, 5, 4)
    assert change.counts[full] == -3
    assert change.counts.sum() == 0


def test_moves_are_cut_after_joining() -> None:
    one = Moves(np.array([0, 0]), np.float32([0.1, 0.3]), np.array([5, 6]), np.array([1, 1]))
    two = Moves(np.array([0, 2]), np.float32([0.2, 0.1]), np.array([1, 2]), np.array([1, 0]))
    moves = Moves.of_all([one, two], np.array([2, 0, 1]))
    assert moves.position.tolist() == [5, 1, 2]
