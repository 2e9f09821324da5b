"""Partitions of a class in Ray calls: rows and state lie in the object store between the calls.

A call that is lost is made again by itself. Rows that are lost with a node are made again by Ray;
if that fails, the class is clustered from the start.

Legend: n rows of a partition, h of them held, D embedding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.execution.partitioned_kmeans import (
    PartitionWork,
    check_partition_rows,
    partition_reader,
)
from clustering.execution.ray_calls import Call, CallRunner, RemoteFunction
from clustering.kmeans.backends import one_thread
from clustering.kmeans.partitions import (
    CHANGING,
    CHUNK_ROWS,
    Answer,
    Partition,
    PartitionState,
)
from data_shards.features.embeddings import EmbeddingShards
from data_shards.features.gather import gather_rows

# `ray` is imported in functions: it reads its environment then, which a job sets up first.

_LARGE_BYTES = 100_000  # arguments from this size on are sent once, not once a partition

Timed = tuple[float, Any]
"""Seconds that a call took in its worker, and its answer."""


def hold_rows(
    work: PartitionWork, dim: int, *pieces: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], float]:
    """Read the first rows of a partition, in the order of its class.

    Args:
        work: the partition.
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
        chunk = slice(first, first + CHUNK_ROWS)
        if shards is None:
            places = np.searchsorted(in_order, positions[chunk])
            rows[chunk] = gather_rows(pieces, places, dim)
        else:
            rows[chunk] = shards.rows(positions[chunk])
        check_partition_rows(work, rows[chunk], first)
    return rows, time.monotonic() - started


def answer_of_partition(
    work: PartitionWork,
    rows: npt.NDArray[np.float32],
    state: PartitionState | None,
    method: str,
    *arguments: Any,
) -> Timed:
    """Call a method of a partition that does not change it; (seconds, answer)."""
    return _call(work, rows, state, method, *arguments)[1]


def change_of_partition(
    work: PartitionWork,
    rows: npt.NDArray[np.float32],
    state: PartitionState | None,
    method: str,
    *arguments: Any,
) -> tuple[PartitionState, Timed]:
    """Call a method of a partition that changes it; its new state, and (seconds, answer)."""
    partition, timed = _call(work, rows, state, method, *arguments)
    return partition.state, timed


def _call(
    work: PartitionWork,
    rows: npt.NDArray[np.float32],
    state: PartitionState | None,
    method: str,
    *arguments: Any,
) -> tuple[Partition, Timed]:
    started = time.monotonic()
    read_from_shards = partition_reader(work)

    def read(first: int, end: int) -> npt.NDArray[np.float32]:
        return rows[first:end] if end <= len(rows) else read_from_shards(first, end)

    partition = Partition(
        read,
        len(work.positions),
        first_row=work.first_row,
        backend=work.backend,
        memory_bytes=0,  # each call needs a row once; what is held lies in the object store
        state=state,
    )
    with one_thread():
        answer = getattr(partition, method)(*arguments)
    return partition, (time.monotonic() - started, answer)


_HOLD = RemoteFunction(function=hold_rows, kept=1, spread=True)
_ANSWER = RemoteFunction(function=answer_of_partition, on_gpu=True)
_CHANGE = RemoteFunction(function=change_of_partition, kept=1, on_gpu=True)


class RayPartitions:
    """Partitions in Ray calls; a `clustering.kmeans.partitions.Partitions`."""

    def __init__(
        self,
        runner: CallRunner,
        works: Sequence[PartitionWork],
        dim: int,
        pieces: Sequence[Sequence[Any]],
    ) -> None:
        """Read the rows that are held.

        Args:
            runner: makes the calls.
            works: the partitions, in the order of the rows; none is empty.
            dim: D.
            pieces: of each partition, references to its first rows in the order of the shards.

        Raises:
            ClusterError, DataError, InputLostError, StoppedError: see `CallRunner.run`.
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
        """Call a method of every partition at once.

        Raises:
            ClusterError, DataError, InputLostError, StoppedError: see `CallRunner.run`.
        """
        answers = dict(self._answers(method, *arguments))
        return [answers[number] for number in range(len(self._works))]

    def fold(
        self, join: Callable[[Answer, Answer], Answer], method: str, *arguments: Any
    ) -> Answer:
        """Call a method of every partition at once; each answer is joined with those before it.

        Raises:
            ClusterError, DataError, InputLostError, StoppedError: see `CallRunner.run`.
        """
        answers = (answer for _, answer in self._answers(method, *arguments))
        joined: Answer = reduce(join, answers)
        return joined

    def _answers(self, method: str, *arguments: Any) -> Iterator[tuple[int, Any]]:
        """(number of the partition, its answer), in the order of completion."""
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
        function = _CHANGE if method in CHANGING else _ANSWER
        for number, returned in self._runner.run(function, calls, num_at_once=len(calls)):
            timed = returned
            if function.kept:
                self._states[number], timed = returned
            seconds, answer = timed
            self.seconds += seconds
            yield number, answer
