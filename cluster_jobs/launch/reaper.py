"""The process between a job and a part that it starts: no process of the part outlives the job.

A launcher's own children become orphans when it, or the job above it, is killed. The reaper adopts
them (Linux), notices that its parent is gone, and ends them all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

import psutil

_POLL_SECONDS = 0.05
_PR_SET_CHILD_SUBREAPER = 36


class Reaper:
    """Runs one command until it ends, SIGTERM arrives, or the parent is gone."""

    def __init__(self, parent: int, grace_seconds: float) -> None:
        """Handle SIGTERM and adopt orphans from now on.

        Args:
            parent: id of the process that started this one.
            grace_seconds: time between SIGTERM and SIGKILL.
        """
        self._parent = parent
        self._grace_seconds = grace_seconds
        self._num_signals = 0
        signal.signal(signal.SIGTERM, self._on_signal)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def run(self, command: Sequence[str]) -> int:
        """Run the command; when this returns, it and all its descendants are gone.

        Returns:
            Its exit code; 128 + n if signal n ended it.
        """
        child = subprocess.Popen(command)
        while child.poll() is None and not self._must_stop():
            time.sleep(_POLL_SECONDS)
        if child.poll() is None:
            # Only the child itself: a launcher passes the signal on in its own order.
            child.terminate()
            self._wait_while(lambda: child.poll() is None)
        else:
            self._terminate_orphans()
        _kill_descendants()
        code = child.wait()
        return code if code >= 0 else 128 - code

    def _must_stop(self) -> bool:
        return self._num_signals > 0 or os.getppid() != self._parent

    def _terminate_orphans(self) -> None:
        for orphan in _descendants():
            _send(orphan, signal.SIGTERM)
        self._wait_while(lambda: bool(_descendants()))

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self._grace_seconds
        # A second signal ends the wait.
        while condition() and time.monotonic() < deadline and self._num_signals < 2:
            time.sleep(_POLL_SECONDS)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._num_signals += 1


def _descendants() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _kill_descendants() -> None:
    while left := _descendants():
        for process in left:
            _send(process, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m cluster_jobs.launch.reaper PARENT_ID GRACE_SECONDS COMMAND...`."""
    parent, grace_seconds, *command = sys.argv[1:] if argv is None else argv
    return Reaper(int(parent), float(grace_seconds)).run(command)


if __name__ == "__main__":
    sys.exit(main())
