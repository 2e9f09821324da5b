"""The file of finished training runs: one line each, so that git can keep and merge it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy.run.jobs import Job, Split
from data_shards.errors import DataError

RECORD_FILE = "record.json"
"""What a training run leaves in its folder."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The result of a finished training run; plain JSON types."""

    data: str
    method: str
    seed: int
    split: Split
    chosen: dict[str, Any]
    balanced_accuracy: dict[str, float]
    """By read-out; empty when the loss became infinite."""
    recall_by_size: dict[str, dict[str, float | None]]
    """By read-out, then by group (`shot_groups`): mean recall of its classes; None for a group
    without a class that has images in the split."""
    images_seen: int
    precision: str
    """fp32 or bf16."""
    seconds: float
    """From the start of its process to the end."""


class Records:
    """The finished training runs, of this benchmark or of an earlier one."""

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one.

        Args:
            path: JSON lines. A last line that a killed writer left unfinished is ignored.

        Raises:
            DataError: a line is no record.
        """
        self._path = path
        self._records: dict[str, Record] = {}
        content = path.read_bytes() if path.exists() else b""
        for number, line in enumerate(content[: _end_of_lines(content)].splitlines(), 1):
            name, record = self._read(line, number)
            self._records[name] = record

    def find(self, job: Job) -> Record | None:
        """The record of a finished job; None when it has to be run."""
        return self._records.get(job.name)

    def of(self, jobs: Iterable[Job]) -> list[Record]:
        """The records of those jobs that have one."""
        return [record for job in jobs if (record := self.find(job)) is not None]

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs without a record."""
        return [job for job in jobs if self.find(job) is None]

    def all(self) -> list[Record]:
        """Every record, also of jobs that no suite has any more."""
        return list(self._records.values())

    def add(self, job: Job, record: Record) -> None:
        """Append a finished training run to the file; it is on disk when this returns.

        Other benchmarks may add to the same file meanwhile.
        """
        line = json.dumps({"name": job.name, **asdict(record)}, sort_keys=True).encode() + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
            file.seek(0)
            file.truncate(_end_of_lines(file.read()))  # without what a killed writer left
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._records[job.name] = record

    def _read(self, line: bytes, number: int) -> tuple[str, Record]:
        try:
            entry = json.loads(line)
            return entry.pop("name"), Record(**entry)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"line {number} of {self._path} is no record of this benchmark ({error}); remove it"
            ) from error


def _end_of_lines(content: bytes) -> int:
    """Length of the whole lines; what follows them is a line that was never finished."""
    return content.rfind(b"\n") + 1
