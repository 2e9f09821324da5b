"""Two machines, as Ray sees it, one of which dies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from clustering.config import ClusterConfig
from clustering.coordinator import cluster_embeddings, cluster_locally
from clustering.tasks import Call, Kind, TaskRunner
from tests.helpers.embedding_shards import labelled_rows, write_shards

pytestmark = [pytest.mark.ray, pytest.mark.slow]

_STORE_BYTES = 78643200


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
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
    """It held rows of the divided class, of bundles, and of both the pieces that they came in."""
    other = cluster.add_node(num_cpus=2, object_store_memory=_STORE_BYTES)
    class_sizes = (20_000, 900, 250, 1200)
    folder = write_shards(tmp_path, *labelled_rows(class_sizes))
    settings = {
        "task": "identity",
        "version": 200,
        "num_classes": len(class_sizes),
        "seed": 7,
        "config": ClusterConfig(samples_per_cluster=100, iterations=4),
    }
    expected = cluster_locally(folder, **settings)
    monkeypatch.setattr("clustering.plan._MIB", 9000 * 4 * 6 / 1024)
    run = TaskRunner.run
    steps = []

    def loses(
        runner: TaskRunner, kind: Kind, calls: Sequence[Call], *, num_at_once: int
    ) -> Iterator[tuple[int, Any]]:
        if kind.function.__name__ == "change_of_share":
            steps.append(calls)
            if len(steps) == 2:
                cluster.remove_node(other, allow_graceful=False)
        yield from run(runner, kind, calls, num_at_once=num_at_once)

    monkeypatch.setattr(TaskRunner, "run", loses)
    table = cluster_embeddings(folder, **settings)
    assert table.stats["transport"] == "object_store"
    assert sum(node["Alive"] for node in ray.nodes()) == 1
    for name, array in expected.arrays().items():
        assert table.arrays()[name].tobytes() == array.tobytes(), name
