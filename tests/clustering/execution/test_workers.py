"""The same table from any number of Ray workers, by any transport, whichever worker is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clustering.config import ClusterConfig
from clustering.coordinator import cluster_embeddings
from clustering.errors import ClusterError
from clustering.execution import transport
from clustering.execution.ray_calls import Call, CallRunner, InputLostError, RemoteFunction
from clustering.execution.ray_workers import RayWorkers
from clustering.table.table import ClusterTable
from data_shards.errors import DataError
from tests.helpers.embedding_shards import labelled_rows, write_shards
from tests.helpers.local_clustering import cluster_locally
from tests.helpers.small_ray import small_ray

pytestmark = pytest.mark.ray

# Three are partitioned: one into three, then two side by side into two each.
CLASS_SIZES = (20_000, 10_000, 1, 900, 70, 250, 3, 1200, 300, 600, 9_500)
CONFIG = ClusterConfig(target_size=100, iterations=4, listed_neighbours=4, listed_siblings=2)
OBJECT_STORE = replace(CONFIG, transport="object_store")
PARTITIONED_FROM = 9_000


@pytest.fixture(scope="module", autouse=True)
def _local_ray() -> Iterator[None]:
    with small_ray(num_cpus=4):
        yield


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uneven shards, one of them empty; every large class is in all the others."""
    folder = tmp_path_factory.mktemp("embeddings")
    rows, ids, labels = labelled_rows(CLASS_SIZES)
    ends = [0, 2000, 2000, 17_000, 17_001, len(labels)]
    return write_shards(folder, rows, ids, labels, ends=ends)


@pytest.fixture(scope="module")
def expected(embeddings: Path) -> dict[str, bytes]:
    """Of one process that partitions nothing."""
    return _bytes(cluster_locally(embeddings, **_settings(CONFIG)))


@pytest.fixture(autouse=True)
def _large_classes_are_partitioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clustering.execution.plan._MIB", PARTITIONED_FROM * 4 * 6 / 1024)


def _settings(config: ClusterConfig) -> dict[str, Any]:
    num_classes = len(CLASS_SIZES)
    return {
        "task": "identity",
        "version": 200,
        "num_classes": num_classes,
        "seed": 7,
        "config": config,
    }


def _bytes(table: ClusterTable) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in table.arrays().items()}


def _cluster(folder: Path, config: ClusterConfig = CONFIG) -> dict[str, bytes]:
    table = cluster_embeddings(folder, **_settings(config))
    assert table.stats["transport"] in (config.transport, "shared_files")
    return _bytes(table)


@pytest.mark.parametrize("config", [CONFIG, OBJECT_STORE], ids=lambda config: config.transport)
@pytest.mark.parametrize("num_workers", [1, 2, 3, 0])
def test_any_number_of_workers_makes_the_same_table(
    embeddings: Path, expected: dict[str, bytes], num_workers: int, config: ClusterConfig
) -> None:
    config = replace(config, num_workers=num_workers)
    assert RayWorkers(config).num_workers == (num_workers or 4)
    assert _cluster(embeddings, config) == expected


@pytest.mark.parametrize("config", [CONFIG, OBJECT_STORE], ids=lambda config: config.transport)
@pytest.mark.parametrize("rows", [0, 5000, 9000])
def test_little_memory_makes_the_same_table(
    embeddings: Path,
    expected: dict[str, bytes],
    rows: int,
    config: ClusterConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing of the partitioned classes is held, or the first partition's first rows;
    bundles of the others go in waves, and one that is too large for any is read from the files."""
    store_bytes = RayWorkers(config).object_store_bytes
    for route in transport._HELD_FRACTION:
        monkeypatch.setitem(transport._HELD_FRACTION, route, 4 * rows * 24 / store_bytes)
    monkeypatch.setattr("clustering.execution.transport._WAVE_FRACTION", 1100 * 24 / store_bytes)
    assert _cluster(embeddings, config) == expected


def test_a_full_object_store_makes_the_same_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray spills what does not fit to disk, and restores it."""
    class_sizes = (12_000,) * 5
    folder = write_shards(tmp_path, *labelled_rows(class_sizes, dim=512))
    config = replace(OBJECT_STORE, max_per_class=1)
    settings = _settings(config) | {"num_classes": len(class_sizes)}
    assert RayWorkers(config).object_store_bytes < 60_000 * 4 * 512
    monkeypatch.setattr("clustering.execution.plan._MIB", 2**20)
    monkeypatch.setattr("clustering.execution.transport._WAVE_FRACTION", 10)
    table = cluster_embeddings(folder, **settings)
    assert _bytes(table) == _bytes(cluster_locally(folder, **settings))


def test_workers_need_no_path_of_the_driver(
    embeddings: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means something else to a worker, which runs in another folder."""
    monkeypatch.chdir(embeddings.parent)
    assert _cluster(Path(embeddings.name)) == expected


class Fault:
    """Something that happens to the first call of a function."""

    def __init__(self, name: str, marker: Path, happens: Callable[[], None]) -> None:
        self.name = name
        self.marker = str(marker)
        self.happens = happens

    def put_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Into the calls that are sent from now on."""
        run = CallRunner.run

        def faulty_run(
            runner: CallRunner, function: RemoteFunction, calls: Sequence[Call], *, num_at_once: int
        ) -> Iterator[tuple[int, Any]]:
            if function.function.__name__ == self.name:
                function = replace(function, function=self.around(function.function))
            return run(runner, function, calls, num_at_once=num_at_once)

        monkeypatch.setattr(CallRunner, "run", faulty_run)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with the fault."""
        marker, happens = self.marker, self.happens

        def faulty(*arguments: Any) -> Any:
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return function(*arguments)
            return happens()

        return faulty


@pytest.mark.parametrize(
    "name",
    [
        "check_shards",
        "split_span",
        "cluster_pieces",
        "hold_rows",
        "change_of_partition",
        "answer_of_partition",
    ],
)
def test_a_killed_worker_changes_no_bit(
    embeddings: Path,
    expected: dict[str, bytes],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault = Fault(name, tmp_path / "killed", lambda: os.kill(os.getpid(), signal.SIGKILL))
    fault.put_in(monkeypatch)
    assert _cluster(embeddings, OBJECT_STORE) == expected
    assert os.path.exists(fault.marker)


def test_a_killed_worker_that_reads_files_changes_no_bit(
    embeddings: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Fault(
        "cluster_bundle", tmp_path / "killed", lambda: os.kill(os.getpid(), signal.SIGKILL)
    )
    fault.put_in(monkeypatch)
    assert _cluster(embeddings) == expected
    assert os.path.exists(fault.marker)


@pytest.mark.parametrize("name", ["cluster_pieces", "change_of_partition"])
def test_rows_that_are_lost_for_good_are_read_again(
    embeddings: Path,
    expected: dict[str, bytes],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = CallRunner.run
    lost = []

    def loses(
        runner: CallRunner, function: RemoteFunction, calls: Sequence[Call], *, num_at_once: int
    ) -> Iterator[tuple[int, Any]]:
        if function.function.__name__ == name and not lost:
            lost.append(name)
            raise InputLostError("its node is gone")
        yield from run(runner, function, calls, num_at_once=num_at_once)

    monkeypatch.setattr(CallRunner, "run", loses)
    assert _cluster(embeddings, OBJECT_STORE) == expected
    assert "its rows were lost (its node is gone)" in caplog.text


def test_a_class_whose_rows_are_always_lost_is_given_up(
    embeddings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loses(*arguments: object, **others: object) -> Iterator[tuple[int, Any]]:
        raise InputLostError("its node is gone")

    monkeypatch.setattr("clustering.execution.ray_workers.RayPartitions", loses)
    with pytest.raises(ClusterError, match=r"node is gone\), in the last of 2 attempts"):
        _cluster(embeddings, replace(CONFIG, max_retries=1))


def test_a_late_partition_is_given_up(
    embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fault("change_of_partition", tmp_path / "late", lambda: time.sleep(600)).put_in(monkeypatch)
    run = CallRunner.run

    def impatient(
        runner: CallRunner, function: RemoteFunction, calls: Sequence[Call], *, num_at_once: int
    ) -> Iterator[tuple[int, Any]]:
        if function.function.__name__ == "change_of_partition":
            runner = CallRunner(replace(CONFIG, max_retries=0, call_timeout_seconds=3))
        return run(runner, function, calls, num_at_once=num_at_once)

    monkeypatch.setattr(CallRunner, "run", impatient)
    with pytest.raises(
        ClusterError,
        match=r"a partition of class \d, .* no result in 3 s, in the last of 1 attempts",
    ):
        _cluster(embeddings)


@pytest.mark.parametrize("config", [CONFIG, OBJECT_STORE], ids=lambda config: config.transport)
def test_a_damaged_shard_is_named(tmp_path: Path, config: ClusterConfig) -> None:
    folder = write_shards(tmp_path, *labelled_rows((40, 30)))
    path = folder / "shard-000001.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-000001\.npy is damaged"):
        cluster_embeddings(folder, **(_settings(config) | {"num_classes": 2}))


@pytest.mark.parametrize("config", [CONFIG, OBJECT_STORE], ids=lambda config: config.transport)
@pytest.mark.parametrize("class_", [0, 5])
def test_an_embedding_that_is_no_unit_vector_is_named(
    tmp_path: Path, class_: int, config: ClusterConfig
) -> None:
    rows, ids, labels = labelled_rows(CLASS_SIZES)
    position = int(np.flatnonzero(labels == class_)[-1])
    rows[position] *= 2
    folder = write_shards(tmp_path, rows, ids, labels)
    with pytest.raises(ClusterError, match=rf"row {position} of .*, of class {class_};"):
        cluster_embeddings(folder, **_settings(config))


def test_a_partitioned_class_reports_progress_long_before_its_end(tmp_path: Path) -> None:
    """Otherwise a service that clusters one for long would seem to hang."""
    reports: list[str] = []
    workers = RayWorkers(CONFIG, on_call=lambda: reports.append("a call"))
    cluster_embeddings(
        write_shards(tmp_path, *labelled_rows((20_000,))),
        **(_settings(CONFIG) | {"num_classes": 1}),
        workers=workers,
        on_progress=lambda done, total: reports.append("the class"),
    )
    assert reports.index("the class") == len(reports) - 1
    assert len(reports) > CONFIG.iterations * 3, (
        "each of three partitions answers in each iteration"
    )


def test_more_workers_than_cpus_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert RayWorkers(ClusterConfig(num_workers=9)).num_workers == 4
    assert "cluster.num_workers is 9, but the Ray cluster has 4 CPUs" in caplog.text


def test_a_gpu_backend_needs_a_gpu_of_ray() -> None:
    with pytest.raises(
        ClusterError, match=r"backend is torch-gpu, but the Ray cluster has no GPU.*embed_gpus > 0"
    ):
        RayWorkers(ClusterConfig(backend="torch-gpu"))
