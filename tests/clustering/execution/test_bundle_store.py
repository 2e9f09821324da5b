"""Finished classes outlive the driver, and only what is the same is taken for the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clustering.config import ClusterConfig
from clustering.coordinator import cluster_embeddings
from clustering.execution.bundle_store import BundleStore, KeptWorkers, join_classes, split_classes
from clustering.execution.workers import Done, LocalWorker, WorkList
from clustering.kmeans.bundle import BundleResult
from clustering.table.table import ClusterTable
from tests.helpers.embedding_shards import labelled_rows, write_shards
from tests.helpers.local_clustering import cluster_locally

CONFIG = ClusterConfig(target_size=10, iterations=5)
CLASS_SIZES = (40, 1, 90, 7, 25, 3, 12, 30, 60, 18)


class Divided(LocalWorker):
    """One process that makes as many bundles as several, and may die after some of them."""

    def __init__(self, config: ClusterConfig, num_workers: int = 2, dies_after: int = 10**9):
        super().__init__(config)
        self.num_workers = num_workers
        self.classes: list[int] = []
        self._dies_after = dies_after

    def run(self, works: WorkList) -> Iterator[Done]:
        for number, (work, result) in enumerate(super().run(works)):
            if number == self._dies_after:
                raise KeyboardInterrupt
            self.classes += work.classes.tolist()
            yield work, result


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "embeddings", *labelled_rows(CLASS_SIZES))


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[], BundleStore]:
    """As a new driver would."""
    return lambda: BundleStore(tmp_path / "bundles", embeddings="checksum")


def cluster(folder: Path, workers: Any, config: ClusterConfig = CONFIG, **changes) -> ClusterTable:
    settings = {"task": "t", "version": 0, "num_classes": len(CLASS_SIZES), "seed": 7} | changes
    return cluster_embeddings(folder, config=config, workers=workers, **settings)


def arrays(table: ClusterTable) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in table.arrays().items()}


def unkept(folder: Path, config: ClusterConfig = CONFIG) -> ClusterTable:
    return cluster_locally(
        folder, config=config, task="t", version=0, num_classes=len(CLASS_SIZES), seed=7
    )


@pytest.mark.parametrize("num_workers", [2, 1, 3])
def test_a_killed_driver_leaves_what_it_had_finished(
    embeddings: Path, opened: Callable[[], BundleStore], num_workers: int
) -> None:
    """Also for another number of workers, whose bundles are others."""
    first = Divided(CONFIG, dies_after=3)
    with pytest.raises(KeyboardInterrupt):
        cluster(embeddings, KeptWorkers(first, opened()))
    assert 3 <= len(first.classes) < len(CLASS_SIZES)
    second = Divided(CONFIG, num_workers)
    kept = KeptWorkers(second, opened())
    table = cluster(embeddings, kept)
    assert kept.reused_classes == len(first.classes)
    assert sorted(first.classes + second.classes) == list(range(len(CLASS_SIZES)))
    assert arrays(table) == arrays(unkept(embeddings))
    assert table.stats["iterations"] == unkept(embeddings).stats["iterations"]


def test_a_class_of_all_workers_is_kept(
    embeddings: Path, opened: Callable[[], BundleStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clustering.execution.plan.CHUNK_ROWS", 20)
    monkeypatch.setattr("clustering.execution.plan._MIB", 900)  # 37 rows
    config = replace(CONFIG, memory_mib_per_worker=1)
    tables = []
    for reused in (0, len(CLASS_SIZES)):
        kept = KeptWorkers(LocalWorker(config), opened())
        tables.append(arrays(cluster(embeddings, kept, config)))
        assert kept.reused_classes == reused
        assert (kept.moved_bytes == 0) == bool(reused)
    assert tables[0] == tables[1] == arrays(unkept(embeddings, config))


@pytest.mark.parametrize("what", ["seed", "config", "embeddings", "warm"])
def test_other_work_is_not_taken_for_the_same(embeddings: Path, tmp_path: Path, what: str) -> None:
    store = BundleStore(tmp_path / "bundles", embeddings="checksum")
    first = cluster(embeddings, KeptWorkers(LocalWorker(CONFIG), store))
    changes: dict[str, Any] = {}
    config, origin = CONFIG, "checksum"
    if what == "seed":
        changes = {"seed": 8}
    elif what == "config":
        config = replace(CONFIG, iterations=4)
    elif what == "embeddings":
        origin = "another"
    else:
        config = replace(CONFIG, init="warm")
        changes = {"previous": first}
    again = BundleStore(tmp_path / "bundles", embeddings=origin)
    kept = KeptWorkers(LocalWorker(config), again)
    cluster(embeddings, kept, config, **changes)
    assert kept.reused_classes == 0


def test_who_computes_does_not_matter(embeddings: Path, opened: Callable[[], BundleStore]) -> None:
    cluster(embeddings, KeptWorkers(LocalWorker(CONFIG), opened()))
    config = replace(CONFIG, num_workers=7, max_retries=0, call_timeout_seconds=1.0)
    kept = KeptWorkers(LocalWorker(config), opened())
    cluster(embeddings, kept, config)
    assert kept.reused_classes == len(CLASS_SIZES)


@pytest.mark.parametrize("at", [0, -1])
def test_a_damaged_file_is_made_again(
    embeddings: Path,
    opened: Callable[[], BundleStore],
    tmp_path: Path,
    at: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = arrays(cluster(embeddings, KeptWorkers(Divided(CONFIG), opened())))
    (tmp_path / "bundles" / ".tmp-1-2-x").touch()  # of a killed writer
    files = sorted((tmp_path / "bundles").glob("*.safetensors"))
    content = bytearray(files[0].read_bytes())
    content[at] ^= 1
    files[0].write_bytes(content)
    kept = KeptWorkers(Divided(CONFIG), opened())
    assert arrays(cluster(embeddings, kept)) == expected
    assert 0 < kept.reused_classes < len(CLASS_SIZES)
    assert f"{files[0]} is damaged" in caplog.text
    left = [path.suffix for path in (tmp_path / "bundles").iterdir()]
    assert left == [".safetensors"] * len(files), "the temporary file is gone"


def test_classes_are_taken_apart_and_put_together() -> None:
    rng = np.random.default_rng(0)
    whole = BundleResult(
        class_of=np.array([4, 4, 9, 11, 11, 11]),
        centroids=rng.random((6, 3), dtype=np.float32),
        spread=rng.random(6, dtype=np.float32),
        concentration=rng.random(6, dtype=np.float32),
        assignment=np.array([1, 0, 1, 2, 5, 3, 4, 5], dtype=np.int32),
        iterations=12,
        seconds=1.5,
    )
    parts = split_classes(whole, np.array([3, 1, 4]))
    assert [part.assignment.tolist() for part in parts] == [[1, 0, 1], [0], [2, 0, 1, 2]]
    joined = join_classes(parts)
    for name, value in vars(whole).items():
        np.testing.assert_array_equal(getattr(joined, name), value, err_msg=name)
    assert joined.assignment.dtype == np.int32
