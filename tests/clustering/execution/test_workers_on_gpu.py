"""Who compares rows with centroids where Ray has GPUs, or says so: no GPU is needed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.execution.ray_calls import CallRunner, run_calls
from clustering.execution.ray_workers import RayWorkers, gpus_per_call
from tests.helpers.small_ray import small_ray

pytestmark = pytest.mark.ray

NUM_WORKERS = 6


@pytest.fixture(scope="module", autouse=True)
def _local_ray() -> Iterator[None]:
    with small_ray(num_cpus=NUM_WORKERS, num_gpus=1):
        yield


@pytest.mark.parametrize(
    ("num_workers", "num_gpus", "fraction"),
    [(1, 1, 1.0), (1, 8, 1.0), (8, 8, 1.0), (9, 8, 0.5), (8, 3, 0.3333), (6, 1, 0.1666)],
)
def test_all_workers_fit_on_the_gpus(num_workers: int, num_gpus: int, fraction: float) -> None:
    assert gpus_per_call(num_workers, num_gpus) == fraction
    assert int(1 / fraction) * num_gpus >= num_workers


def test_ray_runs_so_many_at_a_time(tmp_path: Path) -> None:
    folder = str(tmp_path)

    def meets(number: int) -> None:
        with open(f"{folder}/{number}", "w"):
            pass
        while len(os.listdir(folder)) < NUM_WORKERS:
            time.sleep(0.05)

    config = ClusterConfig(call_timeout_seconds=60, max_retries=0)
    fraction = gpus_per_call(NUM_WORKERS, 1)
    works = range(NUM_WORKERS)
    met = run_calls(meets, works, num_at_once=NUM_WORKERS, config=config, num_gpus=fraction)
    assert len(list(met)) == NUM_WORKERS


def test_the_backend_is_chosen_where_the_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the driver; and a machine without the drivers says what is missing."""

    def not_here(wanted: str) -> str:
        raise AssertionError("the driver's machine does not matter")

    monkeypatch.setattr("clustering.execution.workers.choose_backend", not_here)
    assert RayWorkers(ClusterConfig()).backend == "faiss-cpu"
    assert RayWorkers(ClusterConfig(backend="faiss-cpu")).backend == "faiss-cpu"
    with pytest.raises(ClusterError, match="cluster.backend is torch-gpu, which finds no GPU here"):
        RayWorkers(ClusterConfig(backend="torch-gpu"))


def test_workers_are_where_the_gpus_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 16.0, "object_store_memory": 5.0}},
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0, "object_store_memory": 7.0}},
        {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}},
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr(CallRunner, "run_one", lambda *arguments: "torch-gpu")
    workers = RayWorkers(ClusterConfig(num_workers=9))
    assert (workers.backend, workers.num_workers, workers.num_nodes) == ("torch-gpu", 8, 2)
    assert (workers.object_store_bytes, workers._num_gpus) == (12, 0.25)
    assert "has 8 CPUs on machines with a GPU: using those" in caplog.text
    assert RayWorkers(ClusterConfig(backend="faiss-cpu")).num_workers == 24


def test_auto_takes_all_machines_where_no_class_is_large_enough_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 16.0}},
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}},
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr(CallRunner, "run_one", lambda *arguments: "torch-gpu")
    small, large = np.array([5000, 70]), np.array([60_000, 70])  # 25 and 300 clusters

    def workers(backend: str, *class_sizes: np.ndarray) -> tuple[str, int]:
        config = ClusterConfig(backend=backend, target_size=200)  # type: ignore[arg-type]
        made = RayWorkers(config, class_sizes=class_sizes)
        return made.backend, made.num_workers

    assert workers("auto", small, small) == ("faiss-cpu", 24)
    assert workers("auto", small, large) == ("torch-gpu", 8)
    assert workers("torch-gpu", small) == ("torch-gpu", 8)
