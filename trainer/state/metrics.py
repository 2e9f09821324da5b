"""Scalars, to TensorBoard and to JSON lines. Only rank 0 has a writer."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.tensorboard import SummaryWriter

from data_shards.atomic import atomic_file
from trainer.run.folder import RunFolder
from trainer.run.metric_rows import parse_rows


class MetricWriter:
    """Appends scalars; a resumed run first drops those of later steps than it resumes from."""

    def __init__(
        self, run: RunFolder, *, purge_step: int | None = None, part: str | None = None
    ) -> None:
        """Open the run's files.

        Args:
            run: the run's folder.
            purge_step: drop everything recorded for steps after this one; None drops nothing.
            part: the part of the system that writes, if not the trainer: TensorBoard shows it as a
                separate run, and its lines go to `RUN/PART_metrics.jsonl`.
        """
        rows = run.metrics_of(part)
        board = run.tensorboard if part is None else run.tensorboard / part
        if purge_step is not None and rows.exists():
            kept = [row for row in read_metrics(rows) if row["step"] <= purge_step]
            with atomic_file(rows) as temporary:
                lines = "".join(json.dumps(row) + "\n" for row in kept)
                temporary.write_text(lines, encoding="utf-8")
        board.mkdir(parents=True, exist_ok=True)
        purge = None if purge_step is None else purge_step + 1
        self._board = SummaryWriter(str(board), purge_step=purge)
        self._rows = rows.open("a", encoding="utf-8")
        if _is_cut_off(rows):
            self._rows.write("\n")

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


def write_projection(
    run: RunFolder,
    name: str,
    step: int,
    *,
    embeddings: npt.NDArray[np.float32],
    classes: Sequence[str],
    ids: npt.NDArray[np.int64],
) -> None:
    """Put embeddings into TensorBoard's projector; replaces earlier ones of the same name.

    Args:
        run: the run's folder.
        name: of the embeddings and their folder, such as "identity-test".
        step: of the weights that made them.
        embeddings: (N, D) float32.
        classes: (N,) name of each embedding's class.
        ids: (N,) int64 sample ids.
    """
    board = run.tensorboard / "projector" / name
    shutil.rmtree(board, ignore_errors=True)
    with SummaryWriter(str(board)) as writer:
        writer.add_embedding(
            torch.from_numpy(embeddings),
            metadata=[list(pair) for pair in zip(classes, ids.tolist(), strict=True)],
            metadata_header=["class", "sample"],
            global_step=step,
            tag=name,
        )


def _is_cut_off(path: Path) -> bool:
    """Whether a killed process left an unfinished line, to which the next one would be appended."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def read_metrics(path: Path, names: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; an unfinished last line of a killed process is left out."""
    wanted = None if names is None else set(names)
    rows = parse_rows(path.read_text(encoding="utf-8"))
    return [row for row in rows if wanted is None or row["name"] in wanted]
