"""How far a training is, from the `metrics.jsonl` that it writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from data_shards.progress import Progress

_LOSS = "train/loss"
_VERSION = "table/version"


class TrainingProgress:
    """Draws the progress of a run that another process trains, from its first step on."""

    def __init__(self, metrics: Path, *, label: str, steps: int) -> None:
        """Start to watch; what is in the file already belongs to an earlier attempt.

        Args:
            metrics: the run's `metrics.jsonl`, there or not yet.
            label: what is being trained.
            steps: of the whole training.
        """
        self._metrics = metrics
        self._label = label
        self._steps = steps
        self._inode = metrics.stat().st_ino if metrics.exists() else None
        self._offset = metrics.stat().st_size if metrics.exists() else 0
        self._progress: Progress | None = None

    def poll(self) -> None:
        """Read the rows written since the last call and draw."""
        rows = self._new_rows() if self._metrics.exists() else []
        if not rows:
            return
        if self._progress is None:
            self._progress = Progress(self._steps, label=self._label, unit="steps")
        shown: dict[str, Any] = {}
        for row in rows:
            if row["name"] == _LOSS:
                shown["loss"] = f"{row['value']:.3f}"
            elif row["name"] == _VERSION:
                shown["table"] = int(row["value"])
        step = max(int(row["step"]) for row in rows)
        self._progress.update(max(0, step - self._progress.done), **shown)

    def close(self) -> None:
        """Draw for the last time."""
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
        return [json.loads(line) for line in whole.splitlines()]
