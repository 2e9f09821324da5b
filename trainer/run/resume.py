"""Whether a run can continue from a checkpoint: asked before anything starts, and by the ranks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from data_shards.atomic import read_json
from data_shards.errors import ConfigError, DataError
from trainer.config.run_config import RunConfig
from trainer.run.folder import CHECKPOINT_MANIFEST, RunFolder, newest_snapshot
from trainer.run.network import NetworkSettings


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a checkpoint says of the run that wrote it; what continues from it must fit."""

    step: int
    """Optimiser steps done."""
    network: NetworkSettings
    data_checksum: str
    """`Manifest.checksum` of the shards."""
    world_size: int
    zero_stage: int
    optimizer: str
    """`optim.name`."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """What the run that continues has."""

    config: RunConfig
    network: NetworkSettings
    data_checksum: str
    num_ranks: int


def read_saved(path: Path) -> Saved:
    """What a checkpoint says of itself.

    Raises:
        DataError: its manifest is missing or damaged.
    """
    file = path / CHECKPOINT_MANIFEST
    try:
        raw = read_json(file)["state"]
        return Saved(
            step=int(raw["step"]),
            network=NetworkSettings(**raw["network"]),
            data_checksum=raw["data_checksum"],
            world_size=int(raw["world_size"]),
            zero_stage=int(raw["zero_stage"]),
            optimizer=raw["optimizer"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} is no checkpoint's manifest: {error}; name another one") from error


def check_fits(path: Path, saved: Saved, mine: Continuation) -> None:
    """Check that a run can continue from a checkpoint.

    Args:
        path: the checkpoint's folder, for messages.
        saved: what it says of itself.
        mine: the run that is to continue.

    Raises:
        ConfigError: another network, optimiser or data, a number of ranks for which it cannot be
            loaded, or a step after the last one; says what works instead.
    """
    _check_network(path, saved, mine.network)
    if saved.data_checksum != mine.data_checksum:
        raise ConfigError(
            f"checkpoint {path} was trained on other shards than {mine.config.data.shards}; set "
            f"data.shards back, or start from its weights: {weights_way(path)}"
        )
    if saved.step > mine.config.train.steps:
        raise ConfigError(
            f"checkpoint {path} is of step {saved.step}, after train.steps "
            f"{mine.config.train.steps}; raise train.steps, or resume from an older checkpoint"
        )
    if saved.optimizer != mine.config.optim.name:
        raise ConfigError(
            f"checkpoint {path} has the state of optim.name {saved.optimizer}, this run has "
            f"{mine.config.optim.name}; set it back, or start from its weights: {weights_way(path)}"
        )
    _check_ranks(path, saved, mine)


def weights_way(checkpoint: Path) -> str:
    """The settings with which a new run starts from the weights of a checkpoint's run."""
    newest = newest_snapshot(RunFolder(checkpoint.parent.parent))
    return f"a new run.folder, and model.weights={newest or 'one of its snapshots'}"


def _check_network(path: Path, saved: Saved, mine: NetworkSettings) -> None:
    theirs, ours = asdict(saved.network), asdict(mine)
    differing = [f"{k} {theirs[k]} there, {ours[k]} here" for k in ours if theirs[k] != ours[k]]
    if not differing:
        return
    way = "start without it in a new run.folder"
    if saved.network.shares_backbone(mine):
        way = f"start from its weights, of which the heads that fit are used: {weights_way(path)}"
    raise ConfigError(
        f"checkpoint {path} is of another network: {'; '.join(differing)}; set it back, or {way}"
    )


def _check_ranks(path: Path, saved: Saved, mine: Continuation) -> None:
    stage = mine.config.train.zero_stage
    if stage == saved.zero_stage and (not stage or saved.world_size == mine.num_ranks):
        return
    raise ConfigError(
        f"checkpoint {path} was written by {saved.world_size} ranks with ZeRO stage "
        f"{saved.zero_stage}, this run has {mine.num_ranks} with stage {stage}: only ZeRO 0 can "
        "change its number of ranks; start as many as before with that stage, or start from its "
        f"weights: {weights_way(path)}"
    )
