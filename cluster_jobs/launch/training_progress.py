"""How far a training run is, from the `metrics.jsonl` that it writes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from data_shards.progress import Progress
from trainer.run.metric_rows import parse_rows

_LOSS = "train/loss"
_VERSION = "table/version"
_EVERY_SECONDS = 5.0


class TrainingProgress:
    """Shows the progress of a run that another process trains, and what it waits for."""

    def __init__(self, metrics: Path, *, label: str, steps: int) -> None:
        """Start to watch; what is in the file already belongs to an earlier attempt.

        Args:
            metrics: the run's `metrics.jsonl`, there or not yet.
            label: what is being trained.
            steps: of the whole training run.
        """
        self._metrics = metrics
        self._label = label
        self._steps = steps
        self._inode = metrics.stat().st_ino if metrics.exists() else None
        self._offset = metrics.stat().st_size if metrics.exists() else 0
        self._progress: Progress | None = None
        self._done = 0
        self._last_sign = time.monotonic()

    @property
    def has_begun(self) -> bool:
        """Whether a step is done."""
        return self._done > 0

    @property
    def is_through(self) -> bool:
        """Whether the last step is done."""
        return self._done >= self._steps

    def poll(self, phase: str = "") -> None:
        """Read the rows written since the last call and show them.

        Args:
            phase: what happens now; shown while no step is done.
        """
        rows = self._new_rows() if self._metrics.exists() else []
        if not rows:
            self._show_phase(phase)
            return
        self._last_sign = time.monotonic()
        is_first, self._done = not self.has_begun, max(int(row["step"]) for row in rows)
        if self._progress is None:
            self._progress = self._begin()
        elif is_first:
            self._progress.restart(self._done)  # it may have resumed from a checkpoint
        shown: dict[str, Any] = {"now": "training"} if self._on_terminal else {}
        for row in rows:
            if row["name"] == _LOSS:
                shown["loss"] = f"{row['value']:.3f}"
            elif row["name"] == _VERSION:
                shown["table"] = int(row["value"])
        self._progress.update(max(0, self._done - self._progress.done), **shown)

    def _show_phase(self, phase: str) -> None:
        """Behind the bar on a terminal, as a line elsewhere."""
        now = time.monotonic()
        if not phase or now - self._last_sign < _EVERY_SECONDS:
            return
        if not self._on_terminal:
            self._last_sign = now
            sys.stderr.write(f"{self._label}: {phase}\n")
            return
        if self._progress is None:
            self._progress = self._begin()
        self._progress.update(0, now=phase)

    def _begin(self) -> Progress:
        return Progress(self._steps, label=self._label, unit="steps", done=self._done)

    @property
    def _on_terminal(self) -> bool:
        return sys.stderr.isatty()

    def close(self) -> None:
        """Show the last state."""
        if self._progress is not None:
            self._progress.close()

    def _new_rows(self) -> list[dict[str, Any]]:
        with self._metrics.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._inode:  # the trainer dropped what lay beyond its checkpoint
                self._inode, self._offset = inode, 0
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]  # the last row may be half written
        self._offset += len(whole)
        return parse_rows(whole.decode(errors="replace"))
