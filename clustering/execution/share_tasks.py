"""Shares of a class in Ray tasks: rows and state lie in the object store between the calls.

A task that is lost is run again by itself. Rows that are lost with a node are made again by Ray;
when that fails, the class is clustered anew.

Legend: n rows of a share, h of them held, D embedding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.execution.ray_tasks import Call, Kind, TaskRunner
from clustering.execution.sharded_kmeans import ShareWork, check_share_rows, share_reader
from clustering.kmeans.backends import one_thread
from clustering.kmeans.one_class import Answer
from clustering.kmeans.shares import CHANGING, CHUNK_ROWS, Share, ShareState
from data_shards.features.embeddings import EmbeddingShards
from data_shards.features.gather import gather_rows

# `ray` is imported in functions: it reads its environment then, which a job sets up first.

_LARGE_BYTES = 100_000  # arguments from this size on are sent once, not once a share

Timed = tuple[float, Any]
"""Seconds that a call took in its worker, and its answer."""


def hold_rows(
    work: ShareWork, dim: int, *pieces: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], float]:
    """Bring the first rows of a share into the order of its class.

    Args:
        work: the share.
        dim: D.
        pieces: those rows in the order of the embedding shards; none to read them from there.

    Returns:
        (h, D) float32 unit rows, and the seconds that it took.

    Raises:
        ClusterError: when an embedding is not a finite vector of length 1.
    """
    started = time.monotonic()
    positions = work.positions[: work.num_held(dim)]
    rows = np.empty((len(positions), dim), dtype=np.float32)
    shards = None if pieces else EmbeddingShards.open_checked(work.folder)
    in_order = np.sort(positions)
    for first in range(0, len(positions), CHUNK_ROWS):
        part = slice(first, first + CHUNK_ROWS)
        if shards is None:
            places = np.searchsorted(in_order, positions[part])
            rows[part] = gather_rows(pieces, places, dim)
        else:
            rows[part] = shards.rows(positions[part])
        check_share_rows(work, rows[part], first)
    return rows, time.monotonic() - started


def answer_of_share(
    work: ShareWork,
    rows: npt.NDArray[np.float32],
    state: ShareState | None,
    method: str,
    *arguments: Any,
) -> Timed:
    """Call a method of a share that does not change it; (seconds, answer)."""
    return _call(work, rows, state, method, *arguments)[1]


def change_of_share(
    work: ShareWork,
    rows: npt.NDArray[np.float32],
    state: ShareState | None,
    method: str,
    *arguments: Any,
) -> tuple[ShareState, Timed]:
    """Call a method of a share that changes it; its new state, and (seconds, answer)."""
    share, timed = _call(work, rows, state, method, *arguments)
    return share.state, timed


def _call(
    work: ShareWork,
    rows: npt.NDArray[np.float32],
    state: ShareState | None,
    method: str,
    *arguments: Any,
) -> tuple[Share, Timed]:
    started = time.monotonic()
    read_further = share_reader(work)

    def read(first: int, end: int) -> npt.NDArray[np.float32]:
        return rows[first:end] if end <= len(rows) else read_further(first, end)

    share = Share(
        read,
        len(work.positions),
        first_row=work.first_row,
        backend=work.backend,
        memory_bytes=0,  # each call needs a row once; what is held lies in the object store
        state=state,
    )
    with one_thread():
        answer = getattr(share, method)(*arguments)
    return share, (time.monotonic() - started, answer)


_HOLD = Kind(function=hold_rows, kept=1, spread=True)
_ANSWER = Kind(function=answer_of_share, on_gpu=True)
_CHANGE = Kind(function=change_of_share, kept=1, on_gpu=True)


class RayGroup:
    """Shares in tasks; a `clustering.kmeans.one_class.Group`."""

    def __init__(
        self,
        runner: TaskRunner,
        works: Sequence[ShareWork],
        dim: int,
        pieces: Sequence[Sequence[Any]],
    ) -> None:
        """Have the rows held.

        Args:
            runner: of tasks.
            works: the shares, in the order of the rows; none is empty.
            dim: D.
            pieces: of each share, references to its first rows in the order of the shards.

        Raises:
            ClusterError, DataError, InputLostError, StoppedError: see `TaskRunner.run`.
        """
        import ray

        self.num_rows = sum(len(work.positions) for work in works)
        self.dim = dim
        self.seconds = 0.0
        self._runner = runner
        self._names = [str(work) for work in works]
        self._works = [ray.put(work) for work in works]
        self._rows: list[Any] = [None] * len(works)
        self._states: list[Any] = [None] * len(works)
        calls = [
            Call(name, (work, dim, *own))
            for name, work, own in zip(self._names, self._works, pieces, strict=True)
        ]
        for number, (rows, seconds) in runner.run(_HOLD, calls, num_at_once=len(calls)):
            self._rows[number] = rows
            self.seconds += seconds

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every share at once.

        Raises:
            ClusterError, DataError, InputLostError, StoppedError: see `TaskRunner.run`.
        """
        answers = dict(self._answers(method, *arguments))
        return [answers[number] for number in range(len(self._works))]

    def fold(
        self, join: Callable[[Answer, Answer], Answer], method: str, *arguments: Any
    ) -> Answer:
        """Call a method of every share at once; each answer is joined with those before it.

        Raises:
            ClusterError, DataError, InputLostError, StoppedError: see `TaskRunner.run`.
        """
        answers = (answer for _, answer in self._answers(method, *arguments))
        joined: Answer = reduce(join, answers)
        return joined

    def _answers(self, method: str, *arguments: Any) -> Iterator[tuple[int, Any]]:
        """(number of the share, its answer), in the order of completion."""
        import ray

        sent = [
            ray.put(argument) if getattr(argument, "nbytes", 0) > _LARGE_BYTES else argument
            for argument in arguments
        ]
        calls = [
            Call(name, (work, rows, state, method, *sent))
            for name, work, rows, state in zip(
                self._names, self._works, self._rows, self._states, strict=True
            )
        ]
        kind = _CHANGE if method in CHANGING else _ANSWER
        for number, answer in self._runner.run(kind, calls, num_at_once=len(calls)):
            if kind.kept:
                self._states[number], answer = answer
            seconds, told = answer
            self.seconds += seconds
            yield number, told
