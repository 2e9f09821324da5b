"""Progress of long work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from tqdm import tqdm

OnStep = Callable[[], None]
"""Called after each step of a long work, such as a block of rows: as long as it is called, the work
does not hang. It is cheap, and any thread may call it."""


def no_step() -> None:
    """Where nobody waits."""


class Progress:
    """Counts finished units and reports how many are done, how fast, and the time left.

    On a terminal it is a tqdm bar. Elsewhere it writes lines such as
    `import: 300/2,480 images (12 %), 1,234 images/s, 2 s left`, the last of them when it closes.
    """

    def __init__(
        self,
        total: int | None,
        *,
        label: str,
        unit: str,
        stream: TextIO | None = None,
        every_seconds: float = 5.0,
        done: int = 0,
    ) -> None:
        """Start the clock.

        Args:
            total: units of work in all; None if unknown.
            label: what is being done.
            unit: plural name of a unit, such as "images".
            stream: where to write; standard error when None.
            every_seconds: minimum time between two plain lines.
            done: units that were done earlier, which do not count towards the speed.
        """
        self.done = self._done_before = done
        self._total = total
        self._label = label
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._every_seconds = every_seconds
        self._started = self._last_line = time.monotonic()
        self._postfix: dict[str, Any] = {}
        self._shown: tuple[int, dict[str, Any]] | None = None  # by the last plain line
        self._closed = False
        self._bar: tqdm[Any] | None = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=total,
                desc=label,
                unit=f" {unit}",
                file=self._stream,
                dynamic_ncols=True,
                initial=done,
            )

    def update(self, n: int = 1, **postfix: Any) -> None:
        """Count `n` more units as done; `postfix` values are shown after the numbers."""
        self.done += n
        self._postfix.update(postfix)
        if self._bar is not None:
            self._bar.set_postfix(self._postfix, refresh=n == 0)  # tqdm draws only what moves
            self._bar.update(n)
        elif time.monotonic() - self._last_line >= self._every_seconds:
            self._write_line()

    def restart(self, done: int) -> None:
        """Measure the speed from now on; `done` units were done earlier."""
        self.done = self._done_before = done
        self._started = time.monotonic()
        if self._bar is not None:
            self._bar.reset()
            self._bar.initial = self._bar.n = done

    def close(self) -> None:
        """Write the last line. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._bar is not None:
            self._bar.close()
        elif self._shown != (self.done, self._postfix):
            self._write_line()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _write_line(self) -> None:
        now = time.monotonic()
        self._last_line = now
        self._shown = (self.done, dict(self._postfix))
        seconds = now - self._started
        rate = (self.done - self._done_before) / seconds if seconds > 0 else 0.0
        with suppress(OSError):  # a log on a full disk: the work itself goes on
            self._stream.write(f"{self._label}: {', '.join(self._parts(rate))}\n")
            self._stream.flush()

    def _parts(self, rate: float) -> list[str]:
        if self._total is None:
            parts = [f"{self.done:,} {self._unit}"]
        else:
            share = 100 * self.done // self._total if self._total else 100
            parts = [f"{self.done:,}/{self._total:,} {self._unit} ({share} %)"]
        digits = 0 if rate >= 10 else 2
        if not self._done_before or rate > 0:  # otherwise the speed is not known yet
            parts.append(f"{rate:,.{digits}f} {self._unit}/s")
        if self._total is not None and rate > 0 and self.done < self._total:
            parts.append(f"{(self._total - self.done) / rate:,.0f} s left")
        return parts + [f"{name} {value}" for name, value in self._postfix.items()]
