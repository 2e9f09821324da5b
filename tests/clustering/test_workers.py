"""Ray tasks: bounded, retried, and the same table from any number of workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from clustering.actors import RayGroup
from clustering.bundle import BundleResult, BundleWork, cluster_bundle
from clustering.config import ClusterConfig
from clustering.coordinator import cluster_embeddings, cluster_locally
from clustering.errors import ClusterError
from clustering.workers import RayWorkers, run_tasks
from data_shards.errors import DataError
from tests.helpers.embedding_shards import labelled_rows, write_shards

pytestmark = pytest.mark.ray

CONFIG = ClusterConfig(samples_per_cluster=10, iterations=5)
CLASS_SIZES = (40, 1, 90, 7, 25, 3, 12, 30, 60, 18)


@pytest.fixture(scope="module", autouse=True)
def _local_ray() -> Iterator[None]:
    ray.init(
        address="local",  # otherwise a cluster that another process left in a file would be joined
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=78643200,
        log_to_driver=False,
        logging_level="error",
    )
    yield
    ray.shutdown()


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "embeddings", *labelled_rows(CLASS_SIZES))


def _cluster(folder: Path, config: ClusterConfig = CONFIG, **changes) -> dict[str, bytes]:
    """The bytes of a table's arrays, made by Ray unless told otherwise."""
    function = changes.pop("function", cluster_embeddings)
    settings = {"task": "identity", "version": 200, "num_classes": len(CLASS_SIZES), "seed": 7}
    table = function(folder, **settings, config=config, **changes)
    return {name: array.tobytes() for name, array in table.arrays().items()}


class FaultyWorkers(RayWorkers):
    """Workers that run another function in the place of `cluster_bundle`."""

    def __init__(self, config: ClusterConfig, function: Callable[[BundleWork], BundleResult]):
        super().__init__(config)
        self._function = function

    def run(self, works: Sequence[BundleWork]) -> Iterator[tuple[int, BundleResult]]:
        return run_tasks(self._function, works, num_at_once=self.num_workers, config=self._config)


@pytest.mark.parametrize("num_workers", [1, 2, 0])
def test_any_number_of_workers_makes_the_same_table(embeddings: Path, num_workers: int) -> None:
    config = ClusterConfig(samples_per_cluster=10, iterations=5, num_workers=num_workers)
    assert RayWorkers(config).num_workers == (num_workers or 2)
    assert _cluster(embeddings, config) == _cluster(embeddings, function=cluster_locally)


def test_workers_need_no_path_of_the_driver(
    embeddings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means something else to a worker, which runs in another folder."""
    expected = _cluster(embeddings)
    monkeypatch.chdir(embeddings.parent)
    assert _cluster(Path("embeddings")) == expected


def test_a_killed_worker_is_replaced(embeddings: Path, tmp_path: Path) -> None:
    marker = str(tmp_path / "killed")

    def dies_once(work: BundleWork) -> BundleResult:
        if 2 in work.classes and not os.path.exists(marker):
            with open(marker, "w"):
                os.kill(os.getpid(), signal.SIGKILL)
        return cluster_bundle(work)

    got = _cluster(embeddings, workers=FaultyWorkers(CONFIG, dies_once))
    assert os.path.exists(marker)
    assert got == _cluster(embeddings, function=cluster_locally)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_class_divided_over_actors_makes_the_same_table(
    embeddings: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small classes are still tasks; the actors' CPUs are free for them."""
    expected = _cluster(embeddings, function=cluster_locally)
    monkeypatch.setattr("clustering.plan.CHUNK_ROWS", 20)
    monkeypatch.setattr("clustering.plan._MIB", 900)  # 37 rows
    config = replace(CONFIG, memory_mib_per_worker=1, num_workers=num_workers)
    assert _cluster(embeddings, config) == expected


def test_a_killed_actor_is_replaced(
    embeddings: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = _cluster(embeddings, function=cluster_locally)
    monkeypatch.setattr("clustering.plan.CHUNK_ROWS", 20)
    monkeypatch.setattr("clustering.plan._MIB", 900)
    calls = []
    call = RayGroup.call

    def kills_once(group: RayGroup, method: str, *arguments: object) -> list[object]:
        calls.append(method)
        if len(calls) == 3:
            ray.kill(group._actors[0])
        return call(group, method, *arguments)

    monkeypatch.setattr(RayGroup, "call", kills_once)
    assert _cluster(embeddings, replace(CONFIG, memory_mib_per_worker=1)) == expected
    assert "its worker was lost" in caplog.text


def test_a_late_actor_is_given_up(embeddings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clustering.plan.CHUNK_ROWS", 20)
    monkeypatch.setattr("clustering.plan._MIB", 900)
    config = ClusterConfig(memory_mib_per_worker=1, task_timeout_seconds=0.001, max_retries=0)
    with pytest.raises(ClusterError, match=r"no answer in 0.001 s, in the last of 1 attempts"):
        _cluster(embeddings, config)


def test_a_worker_that_always_dies_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    def dies(work: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    config = ClusterConfig(max_retries=1)
    with pytest.raises(
        ClusterError, match=r"work a: its worker was lost .* the last of 2 attempts"
    ):
        list(run_tasks(dies, ["work a"], num_at_once=1, config=config))
    assert "work a: its worker was lost" in caplog.text


def test_a_late_task_is_run_again(tmp_path: Path) -> None:
    marker = str(tmp_path / "late")

    def hangs_once(number: int) -> int:
        if number == 1 and not os.path.exists(marker):
            with open(marker, "w"):
                pass
            time.sleep(600)
        return 10 * number

    list(run_tasks(lambda number: number, [0, 1], num_at_once=2, config=CONFIG))  # warm
    config = ClusterConfig(task_timeout_seconds=5)
    started = time.monotonic()
    results = sorted(run_tasks(hangs_once, [0, 1, 2], num_at_once=2, config=config))
    assert results == [(0, 0), (1, 10), (2, 20)]
    assert os.path.exists(marker)
    assert time.monotonic() - started < 30


def test_a_task_that_is_always_late_is_given_up() -> None:
    def hangs(work: str) -> None:
        time.sleep(600)

    config = ClusterConfig(max_retries=0, task_timeout_seconds=1)
    with pytest.raises(
        ClusterError, match=r"work b: no result in 1 s.*cluster\.task_timeout_secon"
    ):
        list(run_tasks(hangs, ["work b"], num_at_once=1, config=config))


def test_no_more_than_allowed_run_at_once(tmp_path: Path) -> None:
    folder = str(tmp_path)

    def counts(number: int) -> int:
        own = f"{folder}/{number}"
        with open(own, "w"):
            running = len(os.listdir(folder))
        time.sleep(0.05)
        os.remove(own)
        return running

    results = dict(run_tasks(counts, range(6), num_at_once=1, config=CONFIG))
    assert results == dict.fromkeys(range(6), 1)


@pytest.mark.parametrize("kind", [ClusterError, DataError])
def test_a_complaint_of_a_task_is_passed_on_and_not_tried_again(
    kind: type[Exception], tmp_path: Path
) -> None:
    log = str(tmp_path / "log")

    def complains(work: str) -> None:
        with open(log, "a") as file:
            file.write("x")
        raise kind("class 3 is broken")

    with pytest.raises(kind, match="^class 3 is broken$"):
        list(run_tasks(complains, ["work"], num_at_once=1, config=CONFIG))
    assert Path(log).read_text() == "x"


def test_a_mistake_in_a_task_is_shown_with_its_trace() -> None:
    def wrong(work: str) -> float:
        return 1 / 0

    with pytest.raises(ClusterError, match=r"(?s)work c failed: .*in wrong.*ZeroDivisionError"):
        list(run_tasks(wrong, ["work c"], num_at_once=1, config=CONFIG))


def test_more_workers_than_cpus_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert RayWorkers(ClusterConfig(num_workers=9)).num_workers == 2
    assert "cluster.num_workers is 9, but the Ray cluster has 2 CPUs" in caplog.text


def test_a_share_of_a_gpu_is_asked_for(monkeypatch):
    asked = {}

    def remote(**options):
        asked.update(options)
        raise InterruptedError

    monkeypatch.setattr(ray, "remote", remote)
    with pytest.raises(InterruptedError):
        list(run_tasks(str, ["work"], num_at_once=1, config=CONFIG, num_gpus=0.25))
    assert asked == {"num_cpus": 1, "num_gpus": 0.25, "max_retries": 0}
