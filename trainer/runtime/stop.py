"""Stopping: SIGTERM asks a training run to finish the current step, save and exit."""

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

    Use it as a context manager in the main thread; on exit the previous handlers are restored. On
    Ctrl-C a rank of a `deepspeed` launch gets two signals at once: the terminal's SIGINT and the
    launcher's SIGTERM.
    """

    def __init__(self) -> None:
        self._requested_at: float | None = None
        self._previous: dict[int, signal._HANDLER] = {}

    def __call__(self) -> bool:
        """Whether this process was asked to stop."""
        return self._requested_at is not None

    def __enter__(self) -> StopFlag:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._requested_at is None:
            self._requested_at = now
        elif now - self._requested_at > _SAME_REQUEST_SECONDS:
            raise KeyboardInterrupt


def end_process(exit_code: int) -> NoReturn:
    """Exit a rank at once, without the interpreter's shutdown.

    A gloo thread may release a tensor a little after the collective that used it. If that happens
    during the shutdown, the thread can no longer get the interpreter's lock, and the process aborts
    with "terminate called without an active exception": a finished training run would count as
    failed. Destroying the process group does not end those threads while DeepSpeed still holds
    groups of its own.

    Args:
        exit_code: of the process; files must be closed already.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
