"""Checkpoints. DeepSpeed writes its state; our manifest, written last, makes it complete.

The files are in DeepSpeed's own format (torch.save): load only checkpoints that you wrote yourself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.numpy import load_file
from safetensors.torch import save as safetensors_of

from data_shards.atomic import flush_tree, read_json, remove_folder, sha256_of, write_json
from data_shards.disk import writing
from data_shards.errors import DataError
from trainer.config.run_config import RunConfig
from trainer.errors import TrainingError
from trainer.run.folder import CHECKPOINT_MANIFEST as _MANIFEST
from trainer.run.folder import RunFolder, checkpoint_steps, step_name, step_of
from trainer.run.resume import Continuation, Saved, check_fits
from trainer.run.start import find_checkpoint
from trainer.runtime.engine import Engine
from trainer.runtime.table_feed import FeedState
from trainer.runtime.world import World
from trainer.state.snapshot import NetworkDescription

logger = logging.getLogger(__name__)

_STATISTICS = "running_statistics.safetensors"


@dataclass(frozen=True, kw_only=True)
class LoopState(Saved):
    """All that the loop needs to continue; batches and schedules follow from the step."""

    feed: FeedState
    train_seconds: float
    """Time spent in training steps so far."""
    network: NetworkDescription


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
        statistics: of `Objective.state`, if the loss keeps any.

    Raises:
        DiskError: the disk is full, or fails; on the ranks that write to it.
        TrainingError: on the other ranks.
    """
    folder = run.checkpoints / step_name(state.step)
    if engine.world.is_first:
        (folder / _MANIFEST).unlink(missing_ok=True)  # of an older attempt at this step
        run.checkpoints.mkdir(parents=True, exist_ok=True)
    engine.world.barrier()
    try:
        with writing(folder, "the checkpoint"):
            engine.save(run.checkpoints, step_name(state.step))
            # Checksums take as long as reading all of it.
            engine.world.run_on_rank_zero(
                lambda: _complete(folder, run, state, statistics or {}, keep=keep)
            )
    except Exception:
        if engine.world.is_first:  # it would only take the room that the disk lacks
            remove_folder(folder, _MANIFEST)
        raise


def _complete(
    folder: Path,
    run: RunFolder,
    state: LoopState,
    statistics: Mapping[str, torch.Tensor],
    *,
    keep: int,
) -> None:
    """Complete what DeepSpeed has written: flush it to the disk, add checksums and the manifest."""
    if statistics:
        arrays = {name: rows.cpu().contiguous() for name, rows in statistics.items()}
        # Not save_file, whose files only their owner can read.
        (folder / _STATISTICS).write_bytes(safetensors_of(arrays))
    files = {f.name: sha256_of(f) for f in sorted(folder.iterdir()) if f.name != _MANIFEST}
    flush_tree(folder)  # before the manifest says that all is there
    write_json(folder / _MANIFEST, {"state": asdict(state), "files": files})
    _remove_others(run, state.step, keep=keep)


def _remove_others(run: RunFolder, newest: int, *, keep: int) -> None:
    """Keep the newest `keep` complete checkpoints up to this one; remove all others.

    Later ones exist if the run continued from an older checkpoint; `--resume auto` must not find
    them.
    """
    steps = checkpoint_steps(run)
    kept = [step for step in steps if step <= newest][-keep:]
    for folder in run.checkpoints.iterdir():
        step = step_of(folder.name)
        if step is not None and step not in kept:
            remove_folder(folder, _MANIFEST)


def remove_later(run: RunFolder, step: int) -> None:
    """Remove the checkpoints of later steps than the one that a run continues from.

    Their tables will be made again, and `--resume auto` must not mix new tables with old weights.
    """
    for later in checkpoint_steps(run):
        if later > step:
            remove_folder(run.checkpoints / step_name(later), _MANIFEST)


def find_intact(resume: str, run: RunFolder) -> Path | None:
    """The checkpoint to continue from, with undamaged files. Call it on rank 0 only.

    Args:
        resume: as for `find_checkpoint`; "auto" skips damaged checkpoints, with a warning.
        run: of this run.

    Raises:
        ConfigError: from `find_checkpoint`.
        TrainingError: the named checkpoint is damaged, or all are.
    """
    found = find_checkpoint(resume, run)
    if found is None or (damage := _damage(found)) is None:
        return found
    if resume != "auto":
        raise TrainingError(f"{damage}; --resume auto (the default) skips damaged ones")
    for step in reversed(checkpoint_steps(run)[:-1]):
        logger.warning("%s; trying the one before", damage)
        older = run.checkpoints / step_name(step)
        if (damage := _damage(older)) is None:
            return older
    raise TrainingError(
        f"{damage}, and there is no older one to continue from; start again in a new run.folder"
    )


def load(
    engine: Engine,
    path: Path,
    config: RunConfig,
    *,
    network: NetworkDescription,
    data_checksum: str,
) -> LoopState:
    """Restore weights and optimiser after checking that they fit. Every rank must call it.

    Args:
        engine: receives the state.
        path: a checkpoint that `find_intact` found.
        config: the run's configuration.
        network: of this run.
        data_checksum: `Manifest.checksum` of the shards that this run trains on.

    Raises:
        TrainingError: the manifest is damaged.
        ConfigError: from `check_fits`.
    """
    state, _ = _read_manifest(path)
    mine = Continuation(
        config=config,
        network=network,
        data_checksum=data_checksum,
        num_ranks=engine.world.size,
    )
    check_fits(path, state, mine)
    engine.load(path.parent, path.name)
    return state


def load_statistics(path: Path, world: World) -> dict[str, torch.Tensor]:
    """The running statistics that `save` got, on the CPU; empty if none. Every rank must call it.

    Args:
        path: a checkpoint that `find_intact` found.
        world: the ranks; rank 0 reads and broadcasts.
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
    logger.info("checking %s", path)  # takes minutes if it is large
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
    except OSError:  # missing, or on a failing disk
        return True
