"""A polite end: SIGTERM asks the training to save and stop after the step at hand."""

from __future__ import annotations

import signal
from types import FrameType


class StopFlag:
    """Remembers the first SIGTERM or SIGINT; a second one interrupts at once.

    Use as a context in the main thread; the former handlers come back at its end.
    """

    def __init__(self) -> None:
        self._told = False
        self._former: dict[int, signal._HANDLER] = {}

    def __call__(self) -> bool:
        """Whether this process was asked to stop."""
        return self._told

    def __enter__(self) -> StopFlag:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._told:
            raise KeyboardInterrupt
        self._told = True
