"""A snapshot is the request for the tables of its weights: which there are, which are served."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from clustering.errors import ClusterError
from clustering.table import store
from data_shards.atomic import read_json
from data_shards.errors import DataError
from trainer.config.errors import TrainingError
from trainer.run.folder import RunFolder, step_name, step_of
from trainer.state.snapshot import Snapshot, read_snapshot, snapshot_steps


@dataclasses.dataclass(frozen=True, order=True)
class Request:
    """A snapshot on the disk, which asks for tables of its weights."""

    written_ns: int
    folder: Path


class NewestRequest:
    """Follows the newest request of a run, and tells when it has no tables yet."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._served: Request | None = None
        self.taken: Request | None = None
        """The one that `take` returned last."""

    def take(self) -> Snapshot | None:
        """The snapshot written last, if its tables are not published.

        Raises:
            TrainingError: it is damaged.
        """
        request = newest_request(self._run)
        if request is None or request == self._served:
            return None
        try:
            snapshot = read_snapshot(request.folder)
        except TrainingError:
            if newest_request(self._run) != request:
                return None  # replaced or removed while it was read
            raise
        if is_served(self._run, snapshot):
            self._served = request
            return None
        self.taken = request
        return snapshot

    def is_overtaken(self) -> bool:
        """Whether a snapshot was written after the one that `take` returned last."""
        return newest_request(self._run) != self.taken


def newest_request(run: RunFolder) -> Request | None:
    """The snapshot written last, None before the first.

    Not the one of the highest step: a training run that resumed from a checkpoint writes lower
    steps than its earlier attempt had.
    """
    return max(_requests(run), default=None)


def waiting_requests(run: RunFolder) -> list[Request]:
    """The snapshots written since the newest one that has its tables, in the order of writing."""
    waiting: list[Request] = []
    for request in sorted(_requests(run), reverse=True):
        if looks_served(run, request.folder):
            break
        waiting.append(request)
    return waiting[::-1]


def identity(snapshot: Snapshot) -> dict[str, str]:
    """What a table records of its request, besides its version, which is the step.

    The seed and all other settings are those of the run's folder, which holds a single run.
    """
    return {"snapshot_checksum": snapshot.checksum, "data_checksum": snapshot.data_checksum}


def is_served(run: RunFolder, snapshot: Snapshot) -> bool:
    """Whether the tables of exactly these weights and this data are published."""
    return _has_tables(run, snapshot.step, identity(snapshot))


def looks_served(run: RunFolder, folder: Path) -> bool:
    """`is_served` by the snapshot's manifest alone; one that cannot be read has no tables."""
    try:
        stored = read_json(folder / "manifest.json")
        wanted = {
            "snapshot_checksum": str(stored["checksum"]),
            "data_checksum": str(stored["data_checksum"]),
        }
    except (DataError, KeyError):
        return False
    return _has_tables(run, step_of(folder.name) or 0, wanted)


def _requests(run: RunFolder) -> list[Request]:
    folders = [run.snapshots / step_name(step) for step in snapshot_steps(run)]
    return [Request(_time_written(folder), folder) for folder in folders]


def _time_written(folder: Path) -> int:
    try:
        return (folder / "manifest.json").stat().st_mtime_ns
    except FileNotFoundError:  # just being replaced
        return 0


def _has_tables(run: RunFolder, version: int, wanted: dict[str, str]) -> bool:
    try:
        stats = store.stats(run.tables, version)
    except ClusterError:
        return False
    return all(entry.get(key) == wanted[key] for entry in stats.values() for key in wanted)
