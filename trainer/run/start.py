"""What a training run starts from. No torch: `clmle run` checks it before it starts anything."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from data_shards.errors import ConfigError
from trainer.config.run_config import RunConfig
from trainer.run.deepspeed_version import check_deepspeed
from trainer.run.folder import (
    CHECKPOINT_MANIFEST,
    SNAPSHOT_WEIGHTS,
    RunFolder,
    checkpoint_steps,
    step_name,
)


def find_checkpoint(resume: str, run: RunFolder) -> Path | None:
    """The checkpoint that `--resume` names: "auto" (the newest, if any), "none" or a path.

    Raises:
        ConfigError: the path holds no complete checkpoint, or one of another run although this run
            has its own, which resuming from that one would remove.
    """
    if resume == "none":
        return None
    if resume == "auto":
        steps = checkpoint_steps(run)
        return run.checkpoints / step_name(steps[-1]) if steps else None
    path = Path(resume)
    if not (path / CHECKPOINT_MANIFEST).exists():
        raise ConfigError(
            f"--resume {resume}: no complete checkpoint there (it has no {CHECKPOINT_MANIFEST}); "
            "name a folder such as RUN/checkpoints/step_000200"
        )
    mine = checkpoint_steps(run)
    if mine and path.resolve().parent != run.checkpoints.resolve():
        raise ConfigError(
            f"--resume {resume}: {run.path} has its own checkpoints, up to step {mine[-1]}; "
            "--resume auto (the default) continues from there, and a new run.folder can start from "
            "that checkpoint"
        )
    return path


def check_start(config: RunConfig, resume: str) -> None:
    """Check that the run can start, before anything is written.

    Args:
        config: the run; `model.weights` is used if there is no checkpoint to continue from.
        resume: as for `find_checkpoint`.

    Raises:
        ConfigError: from `find_checkpoint`, `check_weights` or `check_deepspeed`.
    """
    check_deepspeed()
    is_new = find_checkpoint(resume, RunFolder(config.run_path)) is None
    if is_new and config.model.weights:
        check_weights(Path(config.model.weights))


def check_weights(path: Path) -> None:
    """Check that a training run can start from these weights; reads only the file's header.

    Raises:
        ConfigError: neither a snapshot's folder nor a .safetensors file.
    """
    try:
        with safe_open(str(path / SNAPSHOT_WEIGHTS if path.is_dir() else path), framework="np"):
            pass
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"model.weights {path} cannot be read ({error}): expected a snapshot's folder, such as "
            "RUN/snapshots/step_000200, or a .safetensors file"
        ) from error
