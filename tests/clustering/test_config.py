from __future__ import annotations

from typing import Any

import pytest

from clustering.config import ClusterConfig


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("target_size", 0, "cluster.target_size must be >= 1, got 0"),
        ("max_per_class", -1, "cluster.max_per_class must be >= 0, got -1"),
        ("iterations", 0, "cluster.iterations must be >= 1, got 0"),
        ("listed_neighbours", -1, "cluster.listed_neighbours must be >= 0"),
        ("listed_siblings", -2, "cluster.listed_siblings must be >= 0"),
        ("num_workers", -1, "cluster.num_workers must be >= 0"),
        ("min_cluster_size", 0, "cluster.min_cluster_size must be >= 1, got 0"),
        ("memory_mib_per_worker", 0, "cluster.memory_mib_per_worker must be >= 1, got 0"),
        ("tolerance", -0.1, "cluster.tolerance must be >= 0, got -0.1"),
        ("balance", 0.5, "cluster.balance must be 0 or >= 1, got 0.5"),
        ("init", "best", r"cluster.init must be one of random, kmeans\+\+, warm, got 'best'"),
        ("backend", "gpu", "cluster.backend must be one of auto, faiss-cpu"),
        ("max_retries", -1, "cluster.max_retries must be >= 0"),
        ("call_timeout_seconds", 0, "cluster.call_timeout_seconds must be > 0, got 0"),
        ("call_timeout_seconds", float("nan"), "cluster.call_timeout_seconds must be > 0"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClusterConfig(**{name: value})


def test_the_defaults_are_valid() -> None:
    assert ClusterConfig().target_size == 200
