"""The parts that a job starts: each has its own reaper, process group and log."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster_jobs.errors import PartFailed
from data_shards.disk import full_disk, writing
from data_shards.errors import MISTAKE
from data_shards.streams import ANY_NAME

_POLL_SECONDS = 0.05
_LINES_SHOWN = 25
_REAPER_SECONDS = 3.0  # beyond its grace time, should the reaper itself be stopped or killed


class Part:
    """A named process that this one started, and all its descendants."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        grace_seconds: float = 5.0,
    ) -> None:
        """Start it.

        Args:
            name: its name in messages.
            command: program and arguments.
            log: file to which its output is appended; its folder is made.
            environment: its whole environment, but for the encoding of its log; this process's own
                when None.
            grace_seconds: time between SIGTERM and SIGKILL.
        """
        self.name = name
        self.log = log
        self.started = time.monotonic()
        self._grace_seconds = grace_seconds
        with writing(log, "the log"):
            log.parent.mkdir(parents=True, exist_ok=True)
            log.touch()
        reaper = [sys.executable, "-m", "cluster_jobs.launch.reaper", str(os.getpid())]
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                [*reaper, str(grace_seconds), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**(environment or os.environ), "PYTHONIOENCODING": ANY_NAME},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Id of its reaper, the parent of all its other processes."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code; None while it runs. A signal n counts as 128 + n."""
        ended_before = self._process.returncode is not None
        code = self._process.poll()
        if code is not None and code < 0 and not ended_before:
            self._kill_group()  # the reaper itself was killed, so its children are still running
        return 128 - code if code is not None and code < 0 else code

    @property
    def was_mistaken(self) -> bool:
        """Whether it ended by a mistake that the user can correct."""
        return self.poll() == MISTAKE

    def terminate(self) -> None:
        """Ask it to end; a second time: at once."""
        if self.poll() is None:
            self._process.terminate()

    def stop(self) -> int:
        """End it and all its descendants; returns the exit code."""
        self.terminate()
        return self.wait_stopped()

    def wait_stopped(self) -> int:
        """Wait for the end after `terminate`; kills it when its grace time is over."""
        code = self.wait(self._grace_seconds + _REAPER_SECONDS)
        if code is None:
            self._kill_group()
            code = 128 - self._process.wait()
        return code

    def wait(self, timeout_seconds: float) -> int | None:
        """The exit code, None if it still runs after that time."""
        deadline = time.monotonic() + timeout_seconds
        while (code := self.poll()) is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return code

    @property
    def has_output(self) -> bool:
        """Whether it wrote anything since its start."""
        return self.log.stat().st_size > self._log_start

    def tail(self, num_lines: int) -> str:
        """The last lines that it wrote since its start."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode("utf-8", errors="replace")
        return "\n".join(text.splitlines()[-num_lines:])

    def failure(self, what: str) -> PartFailed:
        """The error that says what happened to it, with the end of its log."""
        lines = self.tail(_LINES_SHOWN).splitlines() or ["(it wrote nothing)"]
        if room := full_disk(self.log):
            lines.append(f"(its disk is full, {room}: make room; the log lacks what was to follow)")
        shown = "\n".join(f"  | {line}" for line in lines)
        return PartFailed(f"the {self.name} {what}; the end of its log, {self.log}:\n{shown}")

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def stop_all(parts: Sequence[Part]) -> None:
    """End parts at the same time; a signal meanwhile ends the wait, and is raised."""
    for part in parts:
        part.terminate()
    try:
        for part in parts:
            part.wait_stopped()
    except BaseException:
        for part in parts:
            part.terminate()
            part.wait_stopped()
        raise
