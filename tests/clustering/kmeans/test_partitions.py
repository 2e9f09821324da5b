from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest

from clustering.kmeans import partitions
from clustering.kmeans.exact_sums import cluster_sums, in_units
from clustering.kmeans.partitions import Partition, PartitionState
from clustering.kmeans.totals import Moves, Totals
from tests.helpers.reference_clustering import unit_rows

ROWS = unit_rows(np.random.default_rng(0), 50, 4)
CENTROIDS = unit_rows(np.random.default_rng(1), 5, 4)


def _partition(start: int = 0, end: int = 50, state: PartitionState | None = None) -> Partition:
    rows = ROWS[start:end]
    return Partition(lambda first, stop: rows[first:stop], len(rows), first_row=start, state=state)


def test_a_step_gives_each_row_to_its_nearest_centroid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "CHUNK_ROWS", 8)
    totals = _partition().step(CENTROIDS)
    cosines = ROWS @ CENTROIDS.T
    nearest = cosines.argmax(axis=1)
    np.testing.assert_array_equal(totals.counts, np.bincount(nearest, minlength=5))
    sums = cluster_sums(in_units(ROWS), nearest, 5)
    assert totals.sums.tolist() == sums.tolist()
    assert totals.mean_cosine == pytest.approx(cosines.max(axis=1).mean(), abs=1e-6)
    assert totals.changed == 50


def test_totals_of_partitions_add_up_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "CHUNK_ROWS", 8)
    whole = _partition().step(CENTROIDS)
    parts = [_partition(*ends).step(CENTROIDS) for ends in ((0, 8), (8, 8), (8, 32), (32, 50))]
    for some in (parts, parts[::-1]):
        total = reduce(add, some)
        assert total.sums.tobytes() == whole.sums.tobytes()
        assert (total.objective, total.changed) == (whole.objective, whole.changed)


@pytest.mark.parametrize("ends", [[(0, 50)], [(0, 8), (8, 8), (8, 32), (32, 50)]])
def test_changes_add_up_to_the_clusters_as_they_are(
    ends: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where clusters empty and fill again, and a partition goes on in another process."""
    monkeypatch.setattr(partitions, "CHUNK_ROWS", 8)
    rng = np.random.default_rng(4)
    far = CENTROIDS.copy()
    far[1:4] = -ROWS.mean(axis=0)  # the first of equal ones takes all, so two are empty
    parts = [_partition(*own) for own in ends]
    totals = Totals.nothing(5, 4)
    for centroids in (CENTROIDS, far, far, unit_rows(rng, 5, 4)):
        totals = reduce(add, [partition.step(centroids) for partition in parts], totals)
        moved, targets = np.sort(rng.choice(50, 7, replace=False)), rng.integers(0, 5, 7)
        totals = reduce(add, [partition.move(moved, targets, 5, 4) for partition in parts], totals)
        assignment = np.concatenate([partition.state.assignment for partition in parts])
        cosines = np.concatenate([partition.state.cosines for partition in parts])
        assert totals.sums.tolist() == cluster_sums(in_units(ROWS), assignment, 5).tolist()
        assert totals.counts.tolist() == np.bincount(assignment, minlength=5).tolist()
        assert totals.objective == in_units(cosines).sum()
        parts = [
            _partition(*own, state=partition.state)
            for own, partition in zip(ends, parts, strict=True)
        ]


def test_a_step_to_where_the_rows_are_changes_nothing() -> None:
    partition = _partition()
    partition.step(CENTROIDS)
    change = partition.step(CENTROIDS)
    assert not change.sums.any()
    assert not change.counts.any()
    assert (change.objective, change.changed) == (0, 0)


def test_farthest_rows_are_not_those_that_are_alone() -> None:
    partition = _partition()
    totals = partition.step(CENTROIDS)
    cosines = (ROWS @ CENTROIDS.T).max(axis=1)
    found, positions = partition.farthest(3, totals.counts, 1.0)
    assert positions.tolist() == np.argsort(cosines)[:3].tolist()
    assert found.tolist() == sorted(found.tolist())
    alone = totals.counts.copy()
    alone[:] = 1
    assert len(partition.farthest(3, alone, 1.0)[1]) == 0


def test_rows_are_taken_by_their_place_in_the_class() -> None:
    partition = _partition(16, 40)
    assert partition.take(np.array([3, 16, 20, 39, 40])).tolist() == ROWS[[16, 20, 39]].tolist()
    assert len(partition.take(np.array([3]))) == 0


def test_moves_are_those_that_lose_the_least() -> None:
    partition = _partition()
    totals = partition.step(CENTROIDS)
    full = int(totals.counts.argmax())
    limits = np.where(np.arange(5) == full, 3, 0)
    moves = partition.moves(CENTROIDS, limits, np.arange(5) != full)
    cosines = ROWS @ CENTROIDS.T
    members = np.flatnonzero(cosines.argmax(axis=1) == full)
    others = np.delete(cosines, full, axis=1).max(axis=1)
    loss = cosines[members, full] - others[members]
    assert moves.position.tolist() == members[np.argsort(loss)[:3]].tolist()
    change = partition.move(moves.position, moves.target, 5, 4)
    assert change.counts[full] == -3
    assert change.counts.sum() == 0


def test_moves_are_cut_after_joining() -> None:
    one = Moves(np.array([0, 0]), np.float32([0.1, 0.3]), np.array([5, 6]), np.array([1, 1]))
    two = Moves(np.array([0, 2]), np.float32([0.2, 0.1]), np.array([1, 2]), np.array([1, 0]))
    moves = Moves.of_all([one, two], np.array([2, 0, 1]))
    assert moves.position.tolist() == [5, 1, 2]
