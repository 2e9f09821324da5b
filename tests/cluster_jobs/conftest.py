"""A small run without a trainer: shards, a configuration, snapshots of untrained networks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from cluster_jobs.ray_cluster.local_ray import ray_session
from cluster_jobs.service.executor import LocalExecutor
from cluster_jobs.service.refresh import Refresher
from data_shards.shards.manifest import Manifest
from tests.helpers.image_shards import COLUMN, write_split
from trainer.config.builder import build_config
from trainer.config.run_config import RunConfig
from trainer.config.yaml_file import to_yaml
from trainer.run.folder import RunFolder
from trainer.state.snapshot import NetworkDescription, Snapshot, write_snapshot

LAST_STEP = 20
NUM_TRAIN, NUM_TEST = 61, 17


@dataclass(frozen=True)
class TinyRun:
    """A run's configuration and folder, and what the trainer would write into it."""

    config: RunConfig
    manifest: Manifest
    run: RunFolder

    @property
    def config_file(self) -> Path:
        return self.run.path.parent / "config.yaml"

    def snapshot(self, step: int, *, seed: int | None = None) -> Snapshot:
        """Write the snapshot of a step, with weights of their own."""
        description = NetworkDescription.of(self.config, {COLUMN: 3})
        torch.manual_seed(step if seed is None else seed)
        return write_snapshot(
            self.run,
            step,
            state=description.build().state_dict(),
            network=description,
            data_checksum=self.manifest.checksum,
        )


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Three classes of noise; sizes that nothing divides."""
    folder = tmp_path_factory.mktemp("shards")
    train = [0] * 40 + [1] * 15 + [2] * (NUM_TRAIN - 55)
    test = [0, 0, 1, 2, 2] * 3 + [1, 1]
    ids = list(range(NUM_TRAIN + NUM_TEST))
    return Manifest(
        folder=folder,
        source="made",
        fingerprint="made for a test",
        settings={},
        label_columns=(COLUMN,),
        label_names={COLUMN: ("a", "b", "c")},
        splits={
            "train": write_split(folder, "train", ids[:NUM_TRAIN], train, per_shard=16),
            "test": write_split(folder, "test", ids[NUM_TRAIN:], test, per_shard=7),
        },
    ).write()


@pytest.fixture
def tiny(manifest: Manifest, tmp_path: Path) -> TinyRun:
    """A run that has not begun."""
    config = build_config(
        {
            "run": {"folder": str(tmp_path / "run")},
            "data": {"shards": str(manifest.folder)},
            "model": {"input_size": 8, "embedding_dim": 8},
            "cluster": {"target_size": 5},
            "refresh": {"every": 5, "lag": 2},
            "train": {"steps": LAST_STEP},
            "evaluation": {"batch_size": 5},
        }
    )
    made = TinyRun(config, manifest, RunFolder(config.run_path))
    made.config_file.write_text(to_yaml(config))
    return made


@pytest.fixture(scope="module")
def ray_cpus() -> Iterator[int]:
    """One Ray for the tests of a file; other processes find it by RAY_ADDRESS."""
    with ray_session(num_cpus=2) as cpus:
        import ray

        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        yield cpus
        del os.environ["RAY_ADDRESS"]


@pytest.fixture
def served(tiny: TinyRun) -> TinyRun:
    """A run with the tables of step 5, made in this process, and a newer snapshot without."""
    executor = LocalExecutor(tiny.config.cluster)
    Refresher(tiny.config, tiny.manifest, executor).serve(tiny.snapshot(5))
    tiny.snapshot(10)
    return tiny
