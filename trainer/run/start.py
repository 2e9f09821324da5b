"""What a training run starts from. No torch: `clmle run` checks it before it starts anything."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from data_shards.errors import ConfigError, DataError
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.config.tasks import classes_of_tasks
from trainer.run.claim import holds_other_run
from trainer.run.folder import (
    CHECKPOINT_MANIFEST,
    SNAPSHOT_WEIGHTS,
    RunFolder,
    checkpoint_steps,
    newest_checkpoint,
    newest_snapshot,
)
from trainer.run.network import NetworkSettings
from trainer.run.resume import Continuation, check_fits, read_saved

# Files of `torch.save`: of its zip format, and a bare pickle.
_PICKLES = (b"PK\x03\x04", b"\x80")
_CONVERSION = (
    "import sys; from torch import load; from safetensors.torch import save_file; "
    "given = load(sys.argv[1], map_location='cpu', weights_only=True); "
    "save_file({k: v.clone() for k, v in given.get('state_dict', given).items()}, sys.argv[2])"
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
        return newest_checkpoint(run)
    path = Path(resume)
    if (path / SNAPSHOT_WEIGHTS).exists():
        raise ConfigError(
            f"--resume {resume}: a snapshot, which has weights only; start from them with "
            f"model.weights={resume}, or name a checkpoint, such as RUN/checkpoints/step_000200"
        )
    if not (path / CHECKPOINT_MANIFEST).exists():
        raise ConfigError(
            f"--resume {resume}: no complete checkpoint there (it has no {CHECKPOINT_MANIFEST}); "
            f"name a folder such as {_example_checkpoint(path)}"
        )
    mine = checkpoint_steps(run)
    if mine and path.resolve().parent != run.checkpoints.resolve():
        raise ConfigError(
            f"--resume {resume}: {run.path} has its own checkpoints, up to step {mine[-1]}; "
            "--resume auto (the default) continues from there, and a new run.folder can start from "
            "that checkpoint"
        )
    return path


def _example_checkpoint(path: Path) -> str:
    """The newest one of the run in whose folder the path is."""
    for run in map(RunFolder, (path, path.parent, path.parent.parent)):
        if newest := newest_checkpoint(run):
            return str(newest)
    return "RUN/checkpoints/step_000200"


def check_start(
    config: RunConfig, resume: str, *, manifest: Manifest, num_ranks: int
) -> Path | None:
    """Check that the run can start, before anything is written.

    Args:
        config: the run; `model.weights` is used if there is no checkpoint to continue from.
        resume: as for `find_checkpoint`.
        manifest: of its shards.
        num_ranks: of the training.

    Returns:
        The checkpoint that it continues from, as far as is known: the ranks skip a damaged one.

    Raises:
        ConfigError: from `find_checkpoint`, `check_fits` or `check_weights`.
        DataError: the checkpoint that was named is damaged.
    """
    run = RunFolder(config.run_path)
    found = find_checkpoint(resume, run)
    if resume == "auto" and holds_other_run(run, config):
        found = None  # claiming the folder is refused, or clears it
    if found is None:
        if config.model.weights:
            check_weights(Path(config.model.weights))
        return None
    try:
        saved = read_saved(found)
    except DataError:
        if resume == "auto":
            return found
        raise
    mine = Continuation(
        config=config,
        network=NetworkSettings.of(config, classes_of_tasks(config, manifest)),
        data_checksum=manifest.checksum,
        num_ranks=num_ranks,
    )
    check_fits(found, saved, mine)
    return found


def check_weights(path: Path) -> None:
    """Check that a training run can start from these weights; reads only the file's header.

    Raises:
        ConfigError: neither a snapshot's folder nor a .safetensors file.
    """
    file = path / SNAPSHOT_WEIGHTS if path.is_dir() else path
    try:
        with safe_open(str(file), framework="np"):
            pass
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"model.weights {path} cannot be read ({error}): {_what_is_read(path)}"
        ) from error


def _what_is_read(path: Path) -> str:
    if path.is_file() and _begins_as_pickle(path):
        converted = path.with_suffix(".safetensors")
        return (
            "a file of torch.save can run code when it is opened, so only a snapshot's folder or a "
            f'.safetensors file is read; convert it: python -c "{_CONVERSION}" {path} {converted}'
        )
    example = newest_snapshot(RunFolder(path)) or "RUN/snapshots/step_000200"
    return f"expected a snapshot's folder, such as {example}, or a .safetensors file"


def _begins_as_pickle(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4).startswith(_PICKLES)
