"""How a training ends: SIGTERM asks it to save and stop after the step at hand."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

_SAME_REQUEST_SECONDS = 2.0


class StopFlag:
    """Remembers the first SIGTERM or SIGINT; a second one, a while later, interrupts at once.

    Use as a context in the main thread; the former handlers come back at its end. At Ctrl-C a rank
    of a `deepspeed` launch gets two at once: the terminal's, and the launcher's SIGTERM.
    """

    def __init__(self) -> None:
        self._told_at: float | None = None
        self._former: dict[int, signal._HANDLER] = {}

    def __call__(self) -> bool:
        """Whether this process was asked to stop."""
        return self._told_at is not None

    def __enter__(self) -> StopFlag:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._told_at is None:
            self._told_at = now
        elif now - self._told_at > _SAME_REQUEST_SECONDS:
            raise KeyboardInterrupt


def end_process(exit_code: int) -> NoReturn:
    """End a rank at once, without the interpreter's own clearing up.

    A thread of gloo may let go of a tensor a little after the collective that used it. Where that
    falls into the interpreter's end, the thread cannot have the interpreter's lock any more, and
    the process aborts with "terminate called without an active exception": a training that has done
    everything would count as failed. Destroying the process group does not end those threads while
    DeepSpeed still holds groups of its own.

    Args:
        exit_code: what the process is to return; files must be closed by now.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
