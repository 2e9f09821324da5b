"""What runs leave in their folders, as far as it is looked at before anything starts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from data_shards.atomic import write_json
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.config.tasks import classes_of_tasks
from trainer.run.folder import CHECKPOINT_MANIFEST, SNAPSHOT_MANIFEST, RunFolder, step_name
from trainer.run.network import NetworkSettings


def write_checkpoint(config: RunConfig, step: int, *, world_size: int = 2) -> Path:
    """The manifest of a checkpoint, without DeepSpeed's files."""
    manifest = Manifest.load(config.data.shards)
    state = {
        "step": step,
        "network": _network(config, manifest),
        "data_checksum": manifest.checksum,
        "world_size": world_size,
        "zero_stage": config.train.zero_stage,
        "optimizer": config.optim.name,
    }
    folder = RunFolder(config.run_path).checkpoints / step_name(step)
    folder.mkdir(parents=True)
    write_json(folder / CHECKPOINT_MANIFEST, {"state": state})
    return folder


def write_snapshot_manifest(config: RunConfig, step: int) -> Path:
    """The manifest of a snapshot, without its weights."""
    network = _network(config, Manifest.load(config.data.shards))
    folder = RunFolder(config.run_path).snapshots / step_name(step)
    folder.mkdir(parents=True)
    write_json(folder / SNAPSHOT_MANIFEST, {"network": network})
    return folder


def _network(config: RunConfig, manifest: Manifest) -> dict[str, object]:
    return asdict(NetworkSettings.of(config, classes_of_tasks(config, manifest)))
