"""Scalars, to TensorBoard and to JSON lines. Only rank 0 has a writer."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.tensorboard import SummaryWriter

from data_shards.atomic import atomic_file
from data_shards.disk import writing
from trainer.run.folder import RunFolder
from trainer.run.metric_rows import parse_rows

_OF_TENSORBOARD = "TensorBoard's scalars to"
_show = threading.excepthook


def _leave_to_writer(error: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread: what a disk does to that, the next write or close raises."""
    of_tensorboard = type(error.thread).__module__.startswith("tensorboard.")
    if not (of_tensorboard and isinstance(error.exc_value, OSError)):
        _show(error)


def _tensorboard(folder: Path, *, purge_step: int | None = None) -> SummaryWriter:
    threading.excepthook = _leave_to_writer
    return SummaryWriter(str(folder), purge_step=purge_step)


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
            with atomic_file(rows, "the metrics") as temporary:
                lines = "".join(json.dumps(row) + "\n" for row in kept)
                temporary.write_text(lines, encoding="utf-8")
        self._path = rows
        with writing(board, _OF_TENSORBOARD):
            board.mkdir(parents=True, exist_ok=True)
            purge = None if purge_step is None else purge_step + 1
            self._board = _tensorboard(board, purge_step=purge)
        with writing(rows, "the metrics"):
            self._rows = rows.open("a", encoding="utf-8")
            if _is_cut_off(rows):
                self._rows.write("\n")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record values of one step; names are "namespace/name".

        Raises:
            DiskError: the disk is full, or fails; of TensorBoard's file some writes later.
        """
        now = round(time.time(), 3)
        with writing(self._path, "the metrics"):
            for name, value in values.items():
                row = {"step": step, "name": name, "value": value, "time": now}
                self._rows.write(json.dumps(row) + "\n")
            self._rows.flush()
        with writing(self._board.log_dir, _OF_TENSORBOARD):
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush everything to disk.

        Raises:
            DiskError: the disk is full, or fails.
        """
        with writing(self._path, "the metrics"):
            self._rows.close()
        with writing(self._board.log_dir, _OF_TENSORBOARD):
            self._board.close()


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
    with writing(board, "the projector's files to"), _tensorboard(board) as writer:
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
