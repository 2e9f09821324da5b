"""How the work of a run can be used by a run with other settings."""

from __future__ import annotations

import contextlib
from pathlib import Path

from data_shards.atomic import read_json
from data_shards.errors import ConfigError, DataError
from trainer.config.run_config import RunConfig
from trainer.config.tasks import classes_of_tasks, load_manifest
from trainer.run.folder import (
    SNAPSHOT_MANIFEST,
    RunFolder,
    checkpoint_steps,
    snapshot_steps,
    step_name,
)
from trainer.run.network import NetworkSettings
from trainer.run.resume import Continuation, check_fits, read_saved


def way_on(run: RunFolder, config: RunConfig) -> str:
    """What a run with these settings can take over of the one in the folder, as part of a message.

    Returns:
        How to resume from the newest checkpoint that fits, else how to start from the weights, else
        nothing: "to ..., ...; to start over, ".
    """
    try:
        manifest = load_manifest(config)
        network = NetworkSettings.of(config, classes_of_tasks(config, manifest))
    except (ConfigError, DataError):  # which is said when the folder can be claimed
        return ""
    checkpoint = _fitting_checkpoint(run, config, network, manifest.checksum)
    if checkpoint is not None:
        return (
            "to continue from it with these settings, set run.folder to a new folder and add "
            f"--resume {checkpoint}; to start over, "
        )
    snapshot = _fitting_snapshot(run, network)
    if snapshot is not None:
        return (
            "its checkpoints do not fit these settings, but its weights do: to start from them, "
            f"set run.folder to a new folder and model.weights={snapshot}; to start over, "
        )
    return ""


def _fitting_checkpoint(
    run: RunFolder, config: RunConfig, network: NetworkSettings, data_checksum: str
) -> Path | None:
    for step in reversed(checkpoint_steps(run)):
        path = run.checkpoints / step_name(step)
        with contextlib.suppress(ConfigError, DataError):
            saved = read_saved(path)
            mine = Continuation(
                config=config,
                network=network,
                data_checksum=data_checksum,
                num_ranks=saved.world_size,
            )
            check_fits(path, saved, mine)
            if step < config.train.steps:  # else nothing would be trained
                return path
    return None


def _fitting_snapshot(run: RunFolder, network: NetworkSettings) -> Path | None:
    for step in reversed(snapshot_steps(run)):
        path = run.snapshots / step_name(step)
        with contextlib.suppress(DataError, KeyError, TypeError):
            theirs = NetworkSettings(**read_json(path / SNAPSHOT_MANIFEST)["network"])
            if theirs.shares_backbone(network):
                return path
    return None
