"""Which weights are used: a snapshot of the run that is served, so its tables are published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from clustering.errors import ClusterError
from clustering.table import store
from data_shards.errors import DataError
from data_shards.shards.manifest import Manifest
from trainer.errors import TrainingError, UnusableSnapshot
from trainer.run.folder import SNAPSHOT_CHECKSUM, RunFolder, snapshot_steps, step_name, step_of
from trainer.state.snapshot import Snapshot, describe_snapshot, read_snapshot


def identity(snapshot: Snapshot) -> dict[str, str]:
    """What a table records of its snapshot, besides its version, which is the step.

    The seed and all other settings are those of the run's folder, which holds a single run.
    """
    return {SNAPSHOT_CHECKSUM: snapshot.checksum, "data_checksum": snapshot.data_checksum}


def is_served(run: RunFolder, snapshot: Snapshot) -> bool:
    """Whether the tables of exactly these weights and this data are published."""
    try:
        stats = store.stats(run.tables, snapshot.step)
    except ClusterError:
        return False
    wanted = identity(snapshot).items()
    return all(entry.get(key) == value for entry in stats.values() for key, value in wanted)


def looks_served(run: RunFolder, folder: Path) -> bool:
    """`is_served` by the snapshot's manifest alone; one that cannot be read has no tables."""
    try:
        snapshot = describe_snapshot(folder)
    except TrainingError:
        return False
    return is_served(run, snapshot)


def check_data(snapshot: Snapshot, manifest: Manifest) -> None:
    """Refuse shards other than those that a snapshot was trained on.

    Raises:
        DataError: they differ.
    """
    if manifest.checksum != snapshot.data_checksum:
        raise DataError(
            f"{snapshot.path} was trained on other shards than those in {manifest.folder}; "
            "set data.shards to the folder that the run was started with"
        )


def find_snapshot(named: str | None, run: RunFolder) -> Snapshot:
    """The snapshot with a name: a step, a folder, or (None) the newest of the run.

    A checkpoint's folder means the snapshot of the same step beside it.

    Raises:
        UnusableSnapshot: there is none.
        TrainingError: it is damaged.
    """
    if named is not None and not named.isdigit():
        return read_snapshot(_snapshot_folder(Path(named).absolute()))
    steps = snapshot_steps(run)
    if not steps:
        raise UnusableSnapshot(
            f"{run.path} has no snapshot yet; train first, or name a snapshot's folder"
        )
    step = steps[-1] if named is None else int(named)
    if step not in steps:
        shown = ", ".join(map(str, steps))
        raise UnusableSnapshot(
            f"{run.path} has no snapshot of step {step}; name one that it has: {shown}"
        )
    return read_snapshot((run.snapshots / step_name(step)).absolute())


def served_snapshot(named: str | None, run: RunFolder) -> Snapshot:
    """The snapshot with a name, as `find_snapshot`; its tables are published.

    Args:
        named: a step, a folder, or (None) the highest step whose tables are published.
        run: the run's folder.

    Raises:
        UnusableSnapshot: there is none, or its tables are not published.
        TrainingError: it is damaged.
    """
    try:
        newest = next(_served(run), None) if named is None else None
        snapshot = newest or find_snapshot(named, run)
    except UnusableSnapshot as error:
        raise UnusableSnapshot(f"{error}{_steps_that_work(run)}") from error
    check_served(run, snapshot)
    return snapshot


def check_served(run: RunFolder, snapshot: Snapshot) -> None:
    """Refuse a snapshot without tables.

    Raises:
        UnusableSnapshot: they are not published.
    """
    if not is_served(run, snapshot):
        raise UnusableSnapshot(
            f"the cluster tables of {snapshot.path} are not published in {run.tables}; make them "
            "with `clmle recluster --once`, or choose another checkpoint"
            f"{_steps_that_work(run)}"
        )


def _served(run: RunFolder) -> Iterator[Snapshot]:
    """Snapshots whose tables are published, the highest step first; damaged ones are left out."""
    for step in reversed(snapshot_steps(run)):
        folder = (run.snapshots / step_name(step)).absolute()
        # Reading weights takes long: first what their manifest says.
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
        raise UnusableSnapshot(
            f"checkpoint {path} has no snapshot of its weights in {run.snapshots}: one is written "
            "for each cluster table, and old ones are removed; name one of steps "
            f"{', '.join(map(str, steps)) or '(none)'}"
        )
    return run.snapshots / step_name(step)
