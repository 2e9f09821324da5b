"""A run's folder belongs to one run."""

from __future__ import annotations

import shutil
from pathlib import Path

from clustering.settings import fixed_settings
from clustering.table import store
from data_shards.atomic import atomic_file
from data_shards.disk import is_writable, nearest
from data_shards.errors import ConfigError, named
from data_shards.folder_lock import is_held
from trainer.config.run_config import RunConfig, as_dict
from trainer.config.yaml_file import load_config, to_yaml
from trainer.run.folder import RunFolder, checkpoint_steps
from trainer.run.lock import LOCKS, SERVICE
from trainer.run.ways_on import way_on


def claim_folder(
    run: RunFolder, config: RunConfig, *, fresh: bool, holding: str | None = None
) -> None:
    """Claim a folder for a run and write its configuration.

    Launcher, service and trainer may all claim the same folder for the same run. One that another
    run died in before it made a checkpoint or a table is cleared and taken over, but not by a
    service, which serves what is trained there.

    Args:
        run: the folder.
        config: the run's configuration.
        fresh: the caller starts from the first step, so there must be no checkpoint.
        holding: the lock of this folder that the caller holds.

    Raises:
        ConfigError: as for `check_claim`, or the folder cannot be written.
    """
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot create the run folder {run.path}: {error.strerror}; "
            "set run.folder to a place that you can write to"
        ) from error
    check_claim(run, config, fresh=fresh, holding=holding)
    if holds_other_run(run, config):
        _clear(run)
    with atomic_file(run.config) as temporary:
        temporary.write_text(to_yaml(config), encoding="utf-8")


def check_claim(
    run: RunFolder, config: RunConfig, *, fresh: bool, holding: str | None = None
) -> None:
    """Check that a folder can be claimed; writes nothing. Arguments as for `claim_folder`.

    Raises:
        ConfigError: it cannot be written, holds another run or other files, or (fresh) has
            checkpoints.
    """
    _check_writable(run.path)
    if not run.path.exists():
        return
    _check_not_foreign(run)
    if differing := _differing(run, config):
        _check_abandoned(run, config, differing, holding)
    elif fresh and run.checkpoints.exists():
        raise ConfigError(
            f"{run.path} already holds checkpoints of this run; continue with --resume auto, "
            "or set another run.folder, or remove the folder"
        )


def holds_other_run(run: RunFolder, config: RunConfig) -> bool:
    """Whether the folder holds a run with other settings of what is trained."""
    return bool(_differing(run, config))


def _check_writable(path: Path) -> None:
    if not is_writable(path):
        there = nearest(path)
        reason = "no permission to write" if there.is_dir() else "not a folder"
        raise ConfigError(
            f"cannot write to the run folder {path} ({there}: {reason}); set run.folder to a place "
            "that you can write to"
        )


def _check_not_foreign(run: RunFolder) -> None:
    # Listed before looking for the configuration, which a process that claims at the same time
    # writes before anything else.
    names = sorted(entry.name for entry in run.path.iterdir())
    foreign = [n for n in names if n not in _BEFORE_CLAIM and not n.startswith(".")]
    if foreign and not run.config.exists():
        raise ConfigError(
            f"{run.path} holds {named(foreign)}, but no {run.config.name}: "
            "expected a new or empty folder, or a run's; set run.folder to another folder"
        )


def _differing(run: RunFolder, config: RunConfig) -> list[str]:
    """The settings that make it another run than the folder's, in words."""
    if not run.config.exists():
        return []
    mine, theirs = _identity(config), _identity(load_config(run.config))
    return [
        f"{key} ({theirs.get(key)} there, {mine[key]} here)"
        for key in sorted(mine)
        if mine[key] != theirs.get(key)
    ]


def _check_abandoned(
    run: RunFolder, config: RunConfig, differing: list[str], holding: str | None
) -> None:
    """Refuse a folder with another run that is at work, or has made something."""
    found = f"the run folder {run.path} already holds another run: {named(differing)}"
    has_made = checkpoint_steps(run) or store.versions(run.tables) or run.report.exists()
    if has_made or holding == SERVICE:
        raise ConfigError(
            f"{found}; {way_on(run, config)}set run.folder to a new folder, or remove this one"
        )
    # Whoever claims holds its own lock first and looks at the others' then: of two, one sees it.
    held = [name for name in LOCKS if name != holding and is_held(run.path / name)]
    if held:
        raise ConfigError(
            f"{found}, and it is at work there ({', '.join(held)} is held); stop it, or wait for "
            "its end, or set run.folder to a new folder"
        )


def _clear(run: RunFolder) -> None:
    """Remove what another run wrote before it had made anything; logs stay."""
    folders = (run.snapshots, run.embeddings, run.tables, run.checkpoints, run.tensorboard)
    for folder in (*folders, run.evaluation):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (run.service, *run.path.glob("*metrics.jsonl")):
        file.unlink(missing_ok=True)


# What a run's folder may hold before its configuration: the parts start in any order.
_BEFORE_CLAIM = (
    *("snapshots", "embeddings", "tables", "tensorboard", "evaluation", "report.json"),
    *("logs", *LOCKS, "service.json", "baselines"),
)


def _identity(config: RunConfig) -> dict[str, object]:
    """The settings that define the run; all others may change when it is resumed."""
    # The same folder may be given as an absolute or as a relative path.
    shards = str(Path(config.data.shards).resolve())
    return fixed_settings(config) | {"data.shards": shards, "tasks": as_dict(config)["tasks"]}
