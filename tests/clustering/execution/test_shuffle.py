"""Rows in pieces, without Ray: what the calls compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.execution.partition_calls import answer_of_partition, change_of_partition, hold_rows
from clustering.execution.partitioned_kmeans import open_partition, partition_class
from clustering.execution.shuffle import Shuffle, cluster_pieces, split_span
from clustering.kmeans.bundle import BundleWork, cluster_bundle
from tests.helpers.embedding_shards import labelled_rows, write_shards

CLASS_SIZES = (12, 1, 30, 7)
ROWS, IDS, LABELS = labelled_rows(CLASS_SIZES)
RECEIVERS = [np.flatnonzero(np.isin(LABELS, classes)) for classes in ([0, 3], [2], [1])]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Uneven shards, one of them empty."""
    return write_shards(tmp_path, ROWS, IDS, LABELS, ends=[0, 3, 3, 40, 50])


def _shuffle(folder: Path, memory_bytes: float) -> tuple[Shuffle, list[list[np.ndarray]]]:
    """The pieces of each receiver, in the order of the spans."""
    shuffle = Shuffle(
        str(folder), RECEIVERS, dim=ROWS.shape[1], num_workers=2, memory_bytes=memory_bytes
    )
    spans = [list(split_span(work))[:-1] for work in shuffle.spans]
    return shuffle, [[pieces[receiver] for pieces in spans] for receiver in range(len(RECEIVERS))]


@pytest.mark.parametrize(("memory_bytes", "num_spans"), [(1e9, 1), (1000, 3), (48, 50)])
def test_each_gets_its_rows_in_the_order_of_the_shards(
    folder: Path, memory_bytes: float, num_spans: int
) -> None:
    shuffle, pieces = _shuffle(folder, memory_bytes)
    assert len(shuffle.spans) == num_spans
    for receiver, own in zip(RECEIVERS, pieces, strict=True):
        assert np.concatenate(own).tobytes() == ROWS[np.sort(receiver)].tobytes()
    read = np.concatenate([work.positions for work in shuffle.spans])
    assert read.tolist() == list(range(len(ROWS)))


@pytest.mark.parametrize("memory_bytes", [1e9, 200])
def test_a_bundle_in_pieces_has_the_same_clusters(folder: Path, memory_bytes: float) -> None:
    work = _work(folder, [0, 3])
    _, pieces = _shuffle(folder, memory_bytes)
    got, expected = cluster_pieces(work, *pieces[0]), cluster_bundle(work)
    for name in ("centroids", "assignment", "spread", "concentration"):
        assert getattr(got, name).tobytes() == getattr(expected, name).tobytes()


@pytest.mark.parametrize("num_held", [0, 16, 30])
def test_a_partition_between_calls_is_the_same_partition(
    folder: Path, num_held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are held, or some of them, and its state goes from one call to the next."""
    for module in (
        "kmeans.partitions",
        "execution.partitioned_kmeans",
        "execution.partition_calls",
    ):
        monkeypatch.setattr(f"clustering.{module}.CHUNK_ROWS", 8)
    dim = ROWS.shape[1]
    (whole,) = partition_class(_work(folder, [2]), 1)
    work = replace(whole, memory_bytes=(num_held + 1) * 4 * dim)
    rows, _ = hold_rows(work, dim)
    from_pieces, _ = hold_rows(work, dim, ROWS[np.sort(work.positions[:num_held])])
    assert len(rows) == num_held
    assert rows.tobytes() == from_pieces.tobytes()

    partition, state = open_partition(work), None
    sizes = np.full(3, 10)
    for centroids in (ROWS[:3], ROWS[3:6]):
        expected = partition.step(centroids)
        state, (_, totals) = change_of_partition(work, rows, state, "step", centroids)
        assert totals.sums.tobytes() == expected.sums.tobytes()
        assert totals.changed == expected.changed
        _, (cosines, positions) = answer_of_partition(work, rows, state, "farthest", 4, sizes, 1.0)
        expected_cosines, expected_positions = partition.farthest(4, sizes, 1.0)
        assert cosines.tobytes() == expected_cosines.tobytes()
        assert positions.tolist() == expected_positions.tolist()


def test_rows_to_hold_are_checked(tmp_path: Path) -> None:
    rows = ROWS.copy()
    (work,) = partition_class(_work(tmp_path, [2]), 1)
    rows[work.positions[4]] *= 2
    write_shards(tmp_path, rows, IDS, LABELS)
    with pytest.raises(ClusterError, match=rf"row {work.positions[4]} of .*, of class 2;"):
        hold_rows(work, ROWS.shape[1])


def _work(folder: Path, classes: list[int]) -> BundleWork:
    positions = [np.flatnonzero(np.equal(LABELS, c)) for c in classes]
    return BundleWork(
        folder=str(folder),
        classes=np.array(classes),
        class_sizes=np.array([CLASS_SIZES[c] for c in classes]),
        num_clusters=np.array([max(1, CLASS_SIZES[c] // 6) for c in classes]),
        # Not in the order of the shards, as classes are in the order of their sample ids.
        positions=np.concatenate([own[np.argsort(IDS[own])] for own in positions]),
        config=ClusterConfig(iterations=5),
        seed=3,
    )
