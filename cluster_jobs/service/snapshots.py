"""Which weights a job uses: a snapshot of the run, with the cluster tables made from it."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cluster_jobs.errors import JobError
from cluster_jobs.service.table_requests import is_served, looks_served
from data_shards.shards.manifest import Manifest
from trainer.config.errors import TrainingError
from trainer.run.folder import RunFolder, step_name, step_of
from trainer.state.snapshot import Snapshot, read_snapshot, snapshot_steps


def add_checkpoint_option(parser: ArgumentParser) -> None:
    """Add `--checkpoint`, which names what `served_snapshot` takes."""
    parser.add_argument(
        "--checkpoint",
        metavar="STEP|FOLDER",
        help="a step of the run, or the folder of a snapshot or a checkpoint; default: the newest "
        "with its table",
    )


def check_data(snapshot: Snapshot, manifest: Manifest) -> None:
    """Refuse shards other than those that a snapshot was trained on.

    Raises:
        JobError: they differ.
    """
    if manifest.checksum != snapshot.data_checksum:
        raise JobError(
            f"{snapshot.path} was trained on other shards than those in {manifest.folder}; "
            "set data.shards to the folder that the run was started with"
        )


def find_snapshot(named: str | None, run: RunFolder) -> Snapshot:
    """The snapshot that an option names: a step, a folder, or (None) the newest of the run.

    A checkpoint's folder means the snapshot of the same step beside it.

    Raises:
        JobError: there is none.
        TrainingError: it is damaged.
    """
    if named is not None and not named.isdigit():
        return read_snapshot(_snapshot_folder(Path(named).absolute()))
    steps = snapshot_steps(run)
    if not steps:
        raise JobError(f"{run.path} has no snapshot yet; train first, or name a snapshot's folder")
    step = steps[-1] if named is None else int(named)
    if step not in steps:
        shown = ", ".join(map(str, steps))
        raise JobError(f"{run.path} has no snapshot of step {step}; it has those of {shown}")
    return read_snapshot((run.snapshots / step_name(step)).absolute())


def served_snapshot(named: str | None, run: RunFolder) -> Snapshot:
    """The snapshot that an option names, as `find_snapshot`; its tables are published.

    Args:
        named: a step, a folder, or (None) the highest step whose tables are published.
        run: the run's folder.

    Raises:
        JobError: there is none, or its tables are not published.
        TrainingError: it is damaged.
    """
    try:
        newest = next(_served(run), None) if named is None else None
        snapshot = newest or find_snapshot(named, run)
    except JobError as error:
        raise JobError(f"{error}{_steps_that_work(run)}") from error
    check_served(run, snapshot)
    return snapshot


def check_served(run: RunFolder, snapshot: Snapshot) -> None:
    """Refuse a snapshot without tables.

    Raises:
        JobError: they are not published.
    """
    if not is_served(run, snapshot):
        raise JobError(
            f"the cluster tables of {snapshot.path} are not published in {run.tables}; make them "
            "with `clmle recluster --once`, or name another --checkpoint"
            f"{_steps_that_work(run)}"
        )


def _served(run: RunFolder) -> Iterator[Snapshot]:
    """Snapshots whose tables are published, the highest step first; damaged ones are left out."""
    for step in reversed(snapshot_steps(run)):
        folder = (run.snapshots / step_name(step)).absolute()
        # Weights are long to read: first what their manifest says.
        if looks_served(run, folder):
            with suppress(TrainingError):
                yield read_snapshot(folder)


def _steps_that_work(run: RunFolder) -> str:
    steps = sorted(snapshot.step for snapshot in _served(run))
    return f"; steps that have tables: {', '.join(map(str, steps)) or '(none yet)'}"


def _snapshot_folder(path: Path) -> Path:
    step = step_of(path.name)
    if path.parent.name != "checkpoints" or step is None:
        return path
    run = RunFolder(path.parent.parent)
    steps = snapshot_steps(run)
    if step not in steps:
        raise JobError(
            f"checkpoint {path} has no snapshot of its weights in {run.snapshots}: one is written "
            "for each cluster table, and old ones are removed; there are those of steps "
            f"{', '.join(map(str, steps)) or '(none)'}"
        )
    return run.snapshots / step_name(step)
