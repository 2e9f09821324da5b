"""Two machines, as Ray sees it, one of which dies."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from clustering.config import ClusterConfig
from clustering.coordinator import cluster_embeddings
from clustering.execution.ray_calls import Call, CallRunner, RemoteFunction, run_calls
from tests.helpers.embedding_shards import labelled_rows, write_shards
from tests.helpers.local_clustering import cluster_locally

pytestmark = [pytest.mark.ray, pytest.mark.slow]

_STORE_BYTES = 78643200


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The first machine, with one CPU or as many as the test says."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": getattr(request, "param", 1),
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
            "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 4},
        },
    )
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_lost_node_changes_no_bit(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It held rows of the partitioned class and of bundles, and the pieces of both."""
    other = cluster.add_node(num_cpus=2, object_store_memory=_STORE_BYTES)
    class_sizes = (20_000, 900, 250, 1200)
    folder = write_shards(tmp_path, *labelled_rows(class_sizes))
    settings = {
        "task": "identity",
        "version": 200,
        "num_classes": len(class_sizes),
        "seed": 7,
        "config": ClusterConfig(target_size=100, iterations=4),
    }
    expected = cluster_locally(folder, **settings)
    monkeypatch.setattr("clustering.execution.plan._MIB", 9000 * 4 * 6 / 1024)
    run = CallRunner.run
    steps = []

    def loses(
        runner: CallRunner, function: RemoteFunction, calls: Sequence[Call], *, num_at_once: int
    ) -> Iterator[tuple[int, Any]]:
        if function.function.__name__ == "change_of_partition":
            steps.append(calls)
            if len(steps) == 2:
                cluster.remove_node(other, allow_graceful=False)
        yield from run(runner, function, calls, num_at_once=num_at_once)

    monkeypatch.setattr(CallRunner, "run", loses)
    table = cluster_embeddings(folder, **settings)
    assert table.stats["transport"] == "object_store"
    assert sum(node["Alive"] for node in ray.nodes()) == 1
    for name, array in expected.arrays().items():
        assert table.arrays()[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("cluster", [0], indirect=True)
def test_an_answer_that_is_lost_before_it_was_fetched_is_made_again(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A large one stays in the store of the machine that made it until the driver asks."""
    other = cluster.add_node(num_cpus=2, object_store_memory=_STORE_BYTES)
    go, ended = tmp_path / "go", tmp_path / "ended"

    def answers(number: int) -> np.ndarray:
        while number and not go.exists():
            time.sleep(0.05)
        if number:
            ended.touch()
        return np.full(2**20, number)

    results = run_calls(answers, [0, 1], num_at_once=2, config=ClusterConfig())
    assert next(results)[0] == 0
    go.touch()
    while not ended.exists():
        time.sleep(0.05)
    time.sleep(1)  # until Ray has heard of it
    cluster.remove_node(other, allow_graceful=False)
    cluster.add_node(num_cpus=2, object_store_memory=_STORE_BYTES)
    ((number, answer),) = results
    assert (number, answer.min(), answer.max()) == (1, 1, 1)
    assert "1: its answer was lost with its node" in caplog.text
