"""Save and continue. DeepSpeed writes its state; our manifest, written last, makes it count.

The weights' files are DeepSpeed's own format (torch.save): load only checkpoints that you wrote.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.numpy import load_file
from safetensors.torch import save as safetensors_of

from data_shards.atomic import flush_tree, read_json, sha256_of, write_json
from data_shards.errors import ConfigError, DataError
from trainer.config.errors import TrainingError
from trainer.config.run_config import RunConfig
from trainer.run.folder import CHECKPOINT_MANIFEST as _MANIFEST
from trainer.run.folder import RunFolder, checkpoint_steps, step_name, step_of
from trainer.run.start import find_checkpoint
from trainer.runtime.engine import Engine
from trainer.runtime.table_feed import FeedState
from trainer.runtime.world import World
from trainer.state.snapshot import NetworkDescription

logger = logging.getLogger(__name__)

_STATISTICS = "running_statistics.safetensors"


@dataclass(frozen=True, kw_only=True)
class LoopState:
    """All that the loop must know to go on; batches and schedules follow from the step."""

    step: int
    """Optimiser steps done."""
    feed: FeedState
    train_seconds: float
    """Time spent in training steps so far."""
    network: NetworkDescription
    data_checksum: str
    world_size: int
    zero_stage: int
    optimizer: str
    """`optim.name`."""


def save(
    engine: Engine,
    run: RunFolder,
    state: LoopState,
    *,
    keep: int,
    statistics: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Save everything under `RUN/checkpoints/step_.../`. Every rank must call it.

    Args:
        engine: weights and optimiser.
        run: the run's folder.
        state: the loop's state, the same on every rank.
        keep: newest checkpoints to keep.
        statistics: what `Objective.running_statistics` gives, if anything is kept.
    """
    folder = run.checkpoints / step_name(state.step)
    if engine.world.is_first:
        (folder / _MANIFEST).unlink(missing_ok=True)  # of an older attempt at this step
        run.checkpoints.mkdir(parents=True, exist_ok=True)
    engine.world.barrier()
    engine.save(run.checkpoints, step_name(state.step))
    # As long as reading all of it takes.
    engine.world.run_on_rank_zero(
        lambda: _complete(folder, run, state, statistics or {}, keep=keep)
    )


def _complete(
    folder: Path,
    run: RunFolder,
    state: LoopState,
    statistics: Mapping[str, torch.Tensor],
    *,
    keep: int,
) -> None:
    """Make what DeepSpeed has written count: on the disk, with checksums."""
    if statistics:
        arrays = {name: rows.cpu().contiguous() for name, rows in statistics.items()}
        # Not save_file: it makes files that only their owner can read.
        (folder / _STATISTICS).write_bytes(safetensors_of(arrays))
    files = {f.name: sha256_of(f) for f in sorted(folder.iterdir()) if f.name != _MANIFEST}
    flush_tree(folder)  # before the manifest says that all is there
    write_json(folder / _MANIFEST, {"state": asdict(state), "files": files})
    _remove_others(run, state.step, keep=keep)


def _remove_others(run: RunFolder, newest: int, *, keep: int) -> None:
    """Remove what `keep` leaves no place for, what lies beyond the newest, and what is unfinished.

    A training that went on from an older one has left the second behind; `--resume auto` must not
    find them.
    """
    steps = checkpoint_steps(run)
    kept = [step for step in steps if step <= newest][-keep:]
    for folder in run.checkpoints.iterdir():
        step = step_of(folder.name)
        if step is not None and step not in kept:
            _remove(folder)


def forget_later(run: RunFolder, step: int) -> None:
    """Remove the checkpoints beyond the one that a training goes on from.

    It will write their tables anew, and `--resume auto` must not mix these with old weights.
    """
    for later in checkpoint_steps(run):
        if later > step:
            _remove(run.checkpoints / step_name(later))


def _remove(folder: Path) -> None:
    # First, should this be the last act of a killed process.
    (folder / _MANIFEST).unlink(missing_ok=True)
    # Without its manifest it counts for nothing, and what stays (some network file systems keep a
    # file as long as somebody reads it) goes with the next save.
    shutil.rmtree(folder, ignore_errors=True)


def find_sound(resume: str, run: RunFolder) -> Path | None:
    """The checkpoint to go on from, all of its files as they were written. On the first rank.

    Args:
        resume: as `find_checkpoint` takes it; "auto" passes over damaged ones, with a warning.
        run: whose.

    Raises:
        ConfigError: of `find_checkpoint`.
        TrainingError: the one that was named is damaged, or all are.
    """
    found = find_checkpoint(resume, run)
    if found is None or (damage := _damage(found)) is None:
        return found
    if resume != "auto":
        raise TrainingError(f"{damage}; --resume auto (the default) passes over damaged ones")
    for step in reversed(checkpoint_steps(run)[:-1]):
        logger.warning("%s; trying the one before", damage)
        older = run.checkpoints / step_name(step)
        if (damage := _damage(older)) is None:
            return older
    raise TrainingError(
        f"{damage}, and there is no older one to go on from; begin again in a new run.folder"
    )


def load(
    engine: Engine,
    path: Path,
    config: RunConfig,
    *,
    network: NetworkDescription,
    data_checksum: str,
) -> LoopState:
    """Restore weights and optimiser, after checking that they fit. Every rank must call it.

    Args:
        engine: receives the state.
        path: a checkpoint that `find_sound` found.
        config: the run's configuration.
        network: the network that this run has.
        data_checksum: `Manifest.checksum` of the shards that this run trains on.

    Raises:
        TrainingError: the manifest is damaged.
        ConfigError: another architecture or optimiser, other data, a number of ranks that cannot
            be loaded, or a step beyond the end.
    """
    state, _ = _read_manifest(path)
    _check_network(state, path, network)
    if state.data_checksum != data_checksum:
        raise ConfigError(
            f"checkpoint {path} was trained on other shards than {config.data.shards}; "
            "set data.shards back, or start a new run folder"
        )
    _check_course(state, path, config)
    _check_ranks(state, path, config.train.zero_stage, engine.world.size)
    engine.load(path.parent, path.name)
    return state


def load_statistics(path: Path, world: World) -> dict[str, torch.Tensor]:
    """The running statistics that `save` was given, on the CPU; empty without any. On every rank.

    Args:
        path: a checkpoint that `find_sound` found.
        world: the ranks; the first reads for all.
    """
    file = path / _STATISTICS
    stored = world.run_on_rank_zero(lambda: load_file(file) if file.exists() else {})
    return {name: torch.from_numpy(a) for name, a in world.broadcast_arrays(stored).items()}


def _read_manifest(path: Path) -> tuple[LoopState, dict[str, str]]:
    """A checkpoint's loop state, and the checksums of its files."""
    try:
        stored = read_json(path / _MANIFEST)
        raw = stored["state"]
        state = LoopState(
            **{
                **raw,
                "feed": FeedState(**raw["feed"]),
                "network": NetworkDescription(**raw["network"]),
            }
        )
        return state, dict(stored["files"])
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path / _MANIFEST} is no checkpoint's manifest: {error}") from error


def _damage(path: Path) -> str | None:
    """What is wrong with the files of a checkpoint; None if nothing is."""
    logger.info("checking %s", path)  # which takes minutes when it is large
    try:
        _, files = _read_manifest(path)
    except TrainingError as error:
        return str(error)
    damaged = [name for name, digest in files.items() if _differs(path / name, digest)]
    if not damaged:
        return None
    return (
        f"checkpoint {path} is damaged: {', '.join(damaged)} is missing or differs from its "
        "checksum"
    )


def _differs(file: Path, digest: str) -> bool:
    try:
        return sha256_of(file) != digest
    except OSError:  # not there, or a disk that cannot read it any more
        return True


def _check_network(state: LoopState, path: Path, network: NetworkDescription) -> None:
    theirs, ours = asdict(state.network), asdict(network)
    differing = [f"{k} {theirs[k]} there, {ours[k]} here" for k in ours if theirs[k] != ours[k]]
    if differing:
        raise ConfigError(
            f"checkpoint {path} is of another network: {'; '.join(differing)}; "
            "change the model section back, or start a new run folder"
        )


def _check_course(state: LoopState, path: Path, config: RunConfig) -> None:
    if state.step > config.train.steps:
        raise ConfigError(
            f"checkpoint {path} is of step {state.step}, beyond train.steps {config.train.steps}; "
            "set more steps, or take an older checkpoint"
        )
    if state.optimizer != config.optim.name:
        raise ConfigError(
            f"checkpoint {path} has the state of optim.name {state.optimizer}, this run has "
            f"{config.optim.name}; set it back, or begin a new run from the weights of that one "
            "(model.weights: one of its snapshots)"
        )


def _check_ranks(state: LoopState, path: Path, zero_stage: int, world_size: int) -> None:
    same_cut = state.world_size == world_size or not zero_stage
    if zero_stage != state.zero_stage or not same_cut:
        raise ConfigError(
            f"checkpoint {path} was written by {state.world_size} ranks with ZeRO stage "
            f"{state.zero_stage}, this run has {world_size} with stage {zero_stage}: only ZeRO 0 "
            "can change its number of ranks; start as many as before, or begin a new run from "
            "the weights of this one (model.weights: one of its snapshots)"
        )
