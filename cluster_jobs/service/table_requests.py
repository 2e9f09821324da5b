"""A snapshot is the request for the tables of its weights: which there are, which are served."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trainer.errors import TrainingError
from trainer.run.folder import SNAPSHOT_MANIFEST, RunFolder, snapshot_steps, step_name
from trainer.state.served_snapshot import is_served, looks_served
from trainer.state.snapshot import Snapshot, read_snapshot


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


def _requests(run: RunFolder) -> list[Request]:
    folders = [run.snapshots / step_name(step) for step in snapshot_steps(run)]
    return [Request(_time_written(folder), folder) for folder in folders]


def _time_written(folder: Path) -> int:
    try:
        return (folder / SNAPSHOT_MANIFEST).stat().st_mtime_ns
    except FileNotFoundError:  # just being replaced
        return 0
