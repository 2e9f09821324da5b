"""The benchmark's tables are those of the clustering service."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.accuracy.run.tables import TableThread
from cluster_jobs.ray_cluster.executor import RayExecutor
from cluster_jobs.ray_cluster.local_ray import ray_session
from cluster_jobs.service.refresh import Refresher
from clustering.table import store
from data_shards.shards.manifest import Manifest
from tests.helpers.tiny_data import write_tiny_data
from tests.helpers.training import tiny_config
from trainer.config.run_config import RunConfig
from trainer.run.folder import RunFolder
from trainer.state.snapshot import NetworkDescription, Snapshot, write_snapshot

STEPS = (0, 8)


def request(config: RunConfig, manifest: Manifest, step: int) -> Snapshot:
    """What a training writes to ask for a table: other weights at each step."""
    description = NetworkDescription.of(config, {"shape": 4})
    torch.manual_seed(step)
    return write_snapshot(
        RunFolder(config.run_path),
        step,
        state=description.build().state_dict(),
        network=description,
        data_checksum=manifest.checksum,
    )


@pytest.mark.ray
@pytest.mark.slow
def test_a_thread_makes_the_same_arrays_as_the_service(tmp_path: Path) -> None:
    manifest = write_tiny_data(tmp_path / "data")
    by_thread = tiny_config(tmp_path / "thread", manifest.folder)
    by_service = tiny_config(tmp_path / "service", manifest.folder)
    with TableThread(by_thread):
        for step in STEPS:
            request(by_thread, manifest, step)
            deadline = time.monotonic() + 60
            while step not in store.versions(RunFolder(by_thread.run_path).tables):
                assert time.monotonic() < deadline
                time.sleep(0.02)
    with ray_session(num_cpus=2) as cpus:
        refresher = Refresher(by_service, manifest, RayExecutor(by_service, cpus=cpus))
        for step in STEPS:
            refresher.serve(request(by_service, manifest, step))
    for step in STEPS:
        (ours,), (theirs,) = (
            store.load(RunFolder(config.run_path).tables, step).values()
            for config in (by_thread, by_service)
        )
        assert ours.stats["snapshot_checksum"] == theirs.stats["snapshot_checksum"]
        assert ours.stats["embeddings_origin"] == theirs.stats["embeddings_origin"]
        for name, array in ours.arrays().items():
            assert np.array_equal(array, theirs.arrays()[name]), name
        assert ours.num_clusters > 4
