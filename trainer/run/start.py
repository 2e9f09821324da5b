"""What a training starts from, checked without torch: `clmle run` asks before it starts parts."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from data_shards.errors import ConfigError
from trainer.config.run_config import RunConfig
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
        ConfigError: the path holds no complete checkpoint, or one of another run while this one has
            its own, which going back would remove.
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
            f"--resume {resume}: {run.path} has gone on to step {mine[-1]} by itself; --resume "
            "auto (the default) goes on there, a new run.folder starts again from that checkpoint"
        )
    return path


def check_start(config: RunConfig, resume: str) -> None:
    """Refuse a start that could not be made, before anything is written.

    Args:
        config: the run; `model.weights` counts where there is no checkpoint to go on from.
        resume: as `find_checkpoint` takes it.

    Raises:
        ConfigError: of `find_checkpoint` and `check_weights`.
    """
    begins = find_checkpoint(resume, RunFolder(config.run_path)) is None
    if begins and config.model.weights:
        check_weights(Path(config.model.weights))


def check_weights(path: Path) -> None:
    """Refuse what a training could not begin from; looks at no more than its head.

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
