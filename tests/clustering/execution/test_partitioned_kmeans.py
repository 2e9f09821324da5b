from __future__ import annotations

from dataclasses import replace
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.execution.partitioned_kmeans import (
    cluster_partitions,
    open_partition,
    partition_class,
)
from clustering.kmeans.bundle import BundleResult, BundleWork, cluster_bundle
from clustering.kmeans.partitions import LocalPartitions
from tests.helpers.embedding_shards import labelled_rows, write_shards
from tests.helpers.local_clustering import cluster_locally

CHUNK = 16
CLASS_SIZES = (150, 90, 40)
ROWS, IDS, LABELS = labelled_rows(CLASS_SIZES)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        "kmeans.partitions",
        "kmeans.bundle",
        "execution.plan",
        "execution.partitioned_kmeans",
    ):
        monkeypatch.setattr(f"clustering.{module}.CHUNK_ROWS", CHUNK)


def _work(folder: Path, **changes: Any) -> BundleWork:
    config = ClusterConfig(iterations=8, **changes)
    return BundleWork(
        folder=str(folder),
        classes=np.array([0]),
        class_sizes=np.array([150]),
        num_clusters=np.array([7]),
        positions=np.flatnonzero(np.equal(LABELS, 0)),
        config=config,
        seed=3,
    )


def _in_partitions(work: BundleWork, number: int, memory_bytes: float) -> BundleResult:
    partitions = [
        open_partition(replace(own, memory_bytes=memory_bytes))
        for own in partition_class(work, number)
    ]
    return cluster_partitions(work, LocalPartitions(partitions, len(work.positions), ROWS.shape[1]))


def _bytes(result: BundleResult) -> list[bytes]:
    arrays = (result.centroids, result.assignment, result.spread, result.concentration)
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize("memory_bytes", [0, 1000, float("inf")])
@pytest.mark.parametrize("num_workers", [1, 2, 3, 30])
@pytest.mark.parametrize(
    "changes", [{}, {"init": "kmeans++", "balance": 1.2}, {"min_cluster_size": 20}]
)
def test_any_number_of_partitions_makes_the_same_clusters(
    tmp_path: Path, num_workers: int, memory_bytes: float, changes: dict[str, Any]
) -> None:
    """Also uneven ones, empty ones, and ones whose rows stay on the disk."""
    work = _work(write_shards(tmp_path, ROWS, IDS, LABELS), **changes)
    expected = cluster_bundle(work)
    assert _bytes(_in_partitions(work, num_workers, memory_bytes)) == _bytes(expected)


@pytest.mark.parametrize("num_workers", [1, 2, 3, 9, 10, 11, 40])
def test_partitions_are_whole_chunks_in_order(num_workers: int) -> None:
    work = _work(Path("embeddings"))
    partitions = partition_class(work, num_workers)
    assert len(partitions) == num_workers
    assert np.concatenate([own.positions for own in partitions]).tolist() == work.positions.tolist()
    sizes = [len(own.positions) for own in partitions]
    assert [own.first_row for own in partitions] == (np.cumsum(sizes) - sizes).tolist()
    assert all(own.first_row % CHUNK == 0 for own in partitions if len(own.positions))
    assert max(sizes) - min(sizes) <= 2 * CHUNK


def test_rows_beyond_the_memory_are_read_again(tmp_path: Path) -> None:
    work = _work(write_shards(tmp_path, ROWS, IDS, LABELS))
    (whole,) = partition_class(work, 1)
    row_bytes = 4 * ROWS.shape[1]
    partition = open_partition(replace(whole, memory_bytes=2.5 * CHUNK * row_bytes))
    partition.step(ROWS[:2])
    assert sorted(partition._held) == [0, 1, 9]  # the last chunk is small


def test_too_little_memory_for_a_class_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan partitions what exceeds a worker's memory; the table is the same."""
    folder = write_shards(tmp_path, ROWS, IDS, LABELS)
    settings: dict[str, Any] = {"task": "identity", "version": 1, "num_classes": 3, "seed": 5}
    config = ClusterConfig(target_size=10)
    expected = cluster_locally(folder, config=config, **settings)
    monkeypatch.setattr("clustering.execution.plan._MIB", 2000)  # 83 rows
    bounded = replace(config, memory_mib_per_worker=1)
    table = cluster_locally(folder, config=bounded, **settings)
    for name, array in expected.arrays().items():
        assert table.arrays()[name].tobytes() == array.tobytes(), name


def test_an_embedding_that_is_no_unit_vector_is_named(tmp_path: Path) -> None:
    rows = ROWS.copy()
    work = _work(tmp_path)
    position = int(work.positions[70])
    rows[position] *= 2
    write_shards(tmp_path, rows, IDS, LABELS)
    with pytest.raises(ClusterError, match=rf"1 of 16 .* row {position} of .* of class 0;"):
        _in_partitions(work, 3, 0)


def test_answers_are_joined_as_they_come() -> None:
    """So that a few are there at a time, not all."""
    there: set[int] = set()

    class Told:
        def __init__(self) -> None:
            there.add(id(self))
            assert len(there) <= 4  # `reduce` holds on to two while it makes the next

        def __add__(self, other: Told) -> Told:
            return Told()

        def __del__(self) -> None:
            there.discard(id(self))

    class Tells:
        def tell(self) -> Told:
            return Told()

    group = LocalPartitions([Tells()] * 9, 9, 1)
    assert isinstance(group.fold(add, "tell"), Told)
    assert group.seconds > 0
