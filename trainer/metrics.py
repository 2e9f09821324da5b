"""Scalars, to TensorBoard and to `metrics.jsonl`. Only rank 0 holds a writer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from data_shards.atomic import atomic_file
from trainer.run_folder import RunFolder


class MetricWriter:
    """Appends scalars; a continued run first drops what lies beyond the step it goes on from."""

    def __init__(self, run: RunFolder, *, purge_step: int | None = None) -> None:
        """Open the run's files.

        Args:
            run: the run's folder.
            purge_step: drop everything recorded for later steps than this; None drops nothing.
        """
        if purge_step is not None and run.metrics.exists():
            kept = [row for row in read_metrics(run.metrics) if row["step"] <= purge_step]
            with atomic_file(run.metrics) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        run.tensorboard.mkdir(parents=True, exist_ok=True)
        purge = None if purge_step is None else purge_step + 1
        self._board = SummaryWriter(str(run.tensorboard), purge_step=purge)
        self._rows = run.metrics.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record values of one step; names are "namespace/name"."""
        now = round(time.time(), 3)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
            row = {"step": step, "name": name, "value": value, "time": now}
            self._rows.write(json.dumps(row) + "\n")
        self._rows.flush()

    def close(self) -> None:
        """Flush everything to disk."""
        self._board.close()
        self._rows.close()


def read_metrics(path: Path, names: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line cut off by a kill is left out."""
    wanted = None if names is None else set(names)
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if wanted is None or row["name"] in wanted:
            rows.append(row)
    return rows
