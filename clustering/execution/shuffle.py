"""Rows from the embedding shards to the workers that cluster them, through Ray's object store.

A span of the shards is read once, from its first row to its last, and split into one piece for each
receiver: a bundle, or a partition. The driver holds references, never rows.

Legend: n rows of a span, P rows of a bundle, D embedding.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.execution.ray_calls import Call, CallRunner, RemoteFunction
from clustering.execution.transport import cut_spans
from clustering.kmeans.bundle import BundleResult, BundleWork, cluster_classes
from data_shards.features.embeddings import EmbeddingShards
from data_shards.features.gather import gather_rows


@dataclass(frozen=True, kw_only=True)
class SpanWork:
    """Rows to read, and the receiver of each."""

    folder: str
    """The embedding shards, by a path that every worker sees."""
    positions: npt.NDArray[np.integer]
    """(n,) row numbers in the embedding shards, ascending."""
    piece_of: npt.NDArray[np.integer]
    """(n,) piece, that is receiver, of each row."""
    num_pieces: int

    def __str__(self) -> str:
        return f"reading {len(self.positions):,} samples from the {self.positions[0]:,}th on"


def split_span(work: SpanWork) -> Iterator[npt.NDArray[np.float32] | float]:
    """Read a span.

    Yields:
        The pieces, (any, D) float32 each, in the order of the rows; then the seconds that it took.

    Raises:
        DataError: when a shard cannot be read.
    """
    started = time.monotonic()
    rows = EmbeddingShards.open_checked(work.folder).rows(work.positions)
    for piece in range(work.num_pieces):
        yield rows[work.piece_of == piece]
    yield time.monotonic() - started


def cluster_pieces(work: BundleWork, *pieces: npt.NDArray[np.float32]) -> BundleResult:
    """Cluster the classes of a bundle, whose rows come in pieces.

    Args:
        work: what to cluster.
        pieces: (any, D) float32 each; together the rows of the bundle in the order of the shards.

    Raises:
        ClusterError: when an embedding is not a finite vector of length 1.
    """
    in_order = np.sort(work.positions)

    def read(positions: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        return gather_rows(pieces, np.searchsorted(in_order, positions), pieces[0].shape[1])

    return cluster_classes(read, work)


class Shuffle:
    """Splits rows into pieces for their receivers; spans may be read in any order."""

    def __init__(
        self,
        folder: str,
        receivers: Sequence[npt.NDArray[np.integer]],
        *,
        dim: int,
        num_workers: int,
        memory_bytes: float,
    ) -> None:
        """Cut the rows into spans; nothing is read yet.

        Args:
            folder: the embedding shards.
            receivers: row numbers of each, not all empty; no row is in two.
            dim: D.
            num_workers: workers that read at a time.
            memory_bytes: of a worker; a span takes at most half of it.
        """
        positions = np.concatenate(receivers)
        numbers = np.arange(len(receivers), dtype=np.int32)
        receiver = np.repeat(numbers, [len(own) for own in receivers])
        order = np.argsort(positions)
        spans = cut_spans(
            len(positions),
            num_pieces=len(receivers),
            row_bytes=4 * dim,
            num_workers=num_workers,
            memory_bytes=memory_bytes,
        )
        self.spans = [
            SpanWork(
                folder=folder,
                positions=positions[order[span]],
                piece_of=receiver[order[span]],
                num_pieces=len(receivers),
            )
            for span in spans
        ]
        self._pieces: list[Future[list[Any]]] = [Future() for _ in self.spans]

    def read(self, runner: CallRunner, numbers: Sequence[int], *, num_at_once: int = 1) -> float:
        """Read and split some spans; the seconds that all of them took.

        Args:
            runner: makes the calls.
            numbers: of the spans.
            num_at_once: calls at a time.

        Raises:
            ClusterError, DataError, InputLostError, StoppedError: see `CallRunner.run`.
        """
        works = [self.spans[number] for number in numbers]
        function = RemoteFunction(function=split_span, kept=works[0].num_pieces, spread=True)
        calls = [Call(str(work), (work,)) for work in works]
        total = 0.0
        try:
            for number, (*pieces, seconds) in runner.run(function, calls, num_at_once=num_at_once):
                self._pieces[numbers[number]].set_result(pieces)
                total += seconds
        except BaseException as error:
            for number in numbers:
                if not self._pieces[number].done():
                    self._pieces[number].set_exception(error)
            raise
        return total

    def pieces(self, receiver: int) -> list[Any]:
        """References to the rows of a receiver; waits until all spans have been read."""
        return [span.result()[receiver] for span in self._pieces]

    def forget(self, receiver: int) -> None:
        """Drop the references to the rows of a receiver, so that Ray can free them."""
        for span in self._pieces:
            span.result()[receiver] = None
