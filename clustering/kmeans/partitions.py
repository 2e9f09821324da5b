"""A partition of the rows of one class: what one worker computes on in k-means.

A class is cut into chunks of a fixed number of rows; a partition is a range of chunks. Partitions
answer with what has changed in sums and counts, and with single rows. Whatever is added up is first
rounded to an integer (a multiple of 2^-36). So neither the order nor the number of partitions
matters, nor whether rows are summed up from scratch or only those that came and went.

Legend: n rows of a chunk, D embedding, K clusters of the class, E rows asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from clustering.kmeans.backends import BackendName, Placed, place
from clustering.kmeans.exact_sums import angle_sums, change_of_sums, in_units
from clustering.kmeans.totals import Moves, Totals

CHUNK_ROWS = 8192
"""Rows that are compared and summed up at a time."""

ReadRange = Callable[[int, int], npt.NDArray[np.float32]]
"""(first, end) of the partition's rows -> (end - first, D) those rows."""

Answer = TypeVar("Answer")


class Partitions(Protocol):
    """All partitions of a class, wherever they are."""

    @property
    def num_rows(self) -> int:
        """Rows of the class."""

    @property
    def dim(self) -> int:
        """D."""

    @property
    def seconds(self) -> float:
        """Time that all partitions have spent on their answers."""

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every `Partition`; the answers in the order of the rows."""

    def fold(
        self, join: Callable[[Answer, Answer], Answer], method: str, *arguments: Any
    ) -> Answer:
        """Call a method of every `Partition`; the answers joined as they come, in any order.

        So memory holds a few answers at a time, not one a partition.
        """


@dataclass
class LocalPartitions:
    """Partitions in this process."""

    partitions: Sequence[Partition]
    num_rows: int
    dim: int
    seconds: float = 0.0

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """See `Partitions`."""
        started = time.monotonic()
        answers = [getattr(own, method)(*arguments) for own in self.partitions]
        self.seconds += time.monotonic() - started
        return answers

    def fold(
        self, join: Callable[[Answer, Answer], Answer], method: str, *arguments: Any
    ) -> Answer:
        """See `Partitions`."""
        started = time.monotonic()
        joined: Answer = reduce(join, (getattr(own, method)(*arguments) for own in self.partitions))
        self.seconds += time.monotonic() - started
        return joined


@dataclass(frozen=True, slots=True)
class PartitionState:
    """What a partition knows of its rows between two calls."""

    assignment: npt.NDArray[np.int32]
    """(rows,) cluster of each, -1 before the first call."""
    cosines: npt.NDArray[np.float32]
    """(rows,) of each and the centroid that it was last compared with; 0 before the first call."""


CHANGING = frozenset({"step", "move"})
"""Methods of a partition that change its state."""


class Partition:
    """Rows of a class, the cluster of each, and how near it is to that cluster."""

    def __init__(
        self,
        read: ReadRange,
        num_rows: int,
        *,
        first_row: int = 0,
        backend: BackendName = "faiss-cpu",
        memory_bytes: float = float("inf"),
        state: PartitionState | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            read: reads rows of this partition, in the order of the class.
            num_rows: how many there are, >= 0.
            first_row: where the partition begins in its class, a multiple of `CHUNK_ROWS`.
            backend: what compares rows with centroids.
            memory_bytes: rows beyond this are read again whenever they are needed.
            state: of the same partition in another process; None at the beginning. It is copied.
        """
        self._read = read
        self._backend: BackendName = backend
        self._chunks = [
            slice(start, min(start + CHUNK_ROWS, num_rows))
            for start in range(0, num_rows, CHUNK_ROWS)
        ]
        self._first_row = first_row
        self._memory_left = memory_bytes
        self._held: dict[int, npt.NDArray[np.float32]] = {}
        self._placed: dict[int, Placed] = {}
        if state is None:
            self._assignment = np.full(num_rows, -1, dtype=np.int32)
            self._cosines = np.zeros(num_rows, dtype=np.float32)
        else:
            self._assignment = state.assignment.copy()
            self._cosines = state.cosines.copy()

    @property
    def state(self) -> PartitionState:
        """What it takes to go on with this partition elsewhere."""
        return PartitionState(self._assignment, self._cosines)

    def step(self, centroids: npt.NDArray[np.float32]) -> Totals:
        """Give each row to its nearest centroid, and sum up what that changes.

        Args:
            centroids: (K, D) float32, the same K in each call.
        """
        total = Totals.nothing(*centroids.shape)
        for number, chunk in enumerate(self._chunks):
            rows = self._rows(number)
            nearest, cosines = self._place(number, rows, len(centroids)).nearest(centroids)
            gain = int((in_units(cosines) - in_units(self._cosines[chunk])).sum())
            total += _change(rows, self._assignment[chunk], nearest, len(centroids), gain)
            self._assignment[chunk] = nearest
            self._cosines[chunk] = cosines
        return total

    def take(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Read single rows.

        Args:
            positions: (E,) rows of the class, ascending; those of other partitions are left out.

        Returns:
            (up to E, D) float32.
        """
        own = positions - self._first_row
        own = own[(own >= 0) & (own < len(self._assignment))]
        taken = [
            self._rows(number)[own[(own >= chunk.start) & (own < chunk.stop)] - chunk.start]
            for number, chunk in enumerate(self._chunks)
            if np.any((own >= chunk.start) & (own < chunk.stop))
        ]
        return np.concatenate(taken) if taken else np.empty((0, 0), dtype=np.float32)

    def farthest(
        self, num_wanted: int, sizes: npt.NDArray[np.int64], below: float
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Find the rows that are farthest from their centroids.

        Args:
            num_wanted: E, at most this many.
            sizes: (K,) members of each cluster in the class; the only row of a cluster stays.
            below: only rows with a smaller cosine than this.

        Returns:
            (up to E,) float32 cosines, ascending, and int64 rows of the class.
        """
        far = np.flatnonzero((self._cosines < below) & (sizes[self._assignment] > 1))
        order = np.argsort(self._cosines[far], kind="stable")[:num_wanted]
        return self._cosines[far[order]], far[order] + self._first_row

    def moves(
        self,
        centroids: npt.NDArray[np.float32],
        limits: npt.NDArray[np.int64],
        room: npt.NDArray[np.bool_],
    ) -> Moves:
        """Find the clusters to which rows that must leave theirs could go.

        Args:
            centroids: (K, D) float32.
            limits: (K,) rows that must leave each cluster.
            room: (K,) clusters that rows may go to.
        """
        places = np.flatnonzero(room)
        found = [Moves.none()]
        for number, chunk in enumerate(self._chunks):
            leaving = np.flatnonzero(limits[self._assignment[chunk]] > 0)
            if not len(leaving):
                continue
            rows = self._rows(number)[leaving]
            source = self._assignment[chunk][leaving].astype(np.int64)
            nearest, cosines = place(self._backend, rows, len(places)).nearest(centroids[places])
            loss = np.einsum("nd,nd->n", rows, centroids[source]) - cosines
            position = leaving + chunk.start + self._first_row
            found.append(Moves(source, loss, position, places[nearest]).cut(limits))
        return Moves.of_all(found, limits)

    def move(
        self,
        positions: npt.NDArray[np.int64],
        targets: npt.NDArray[np.int64],
        num_clusters: int,
        dim: int,
    ) -> Totals:
        """Move rows to other clusters, and sum up what that changes.

        Args:
            positions: (E,) rows of the class; those of other partitions are left out.
            targets: (E,) clusters that they go to.
            num_clusters: K.
            dim: D.
        """
        own = positions - self._first_row
        here = (own >= 0) & (own < len(self._assignment))
        moved = self._assignment.copy()
        moved[own[here]] = targets[here]
        total = Totals.nothing(num_clusters, dim)
        for number, chunk in enumerate(self._chunks):
            before, after = self._assignment[chunk], moved[chunk]
            if (before != after).any():
                total += _change(self._rows(number), before, after, num_clusters)
        self._assignment = moved
        return total

    def first_members(self, num_clusters: int) -> npt.NDArray[np.int64]:
        """(K,) first row of the class in each cluster, the largest int64 where there is none."""
        first = np.full(num_clusters, np.iinfo(np.int64).max)
        clusters, rows = np.unique(self._assignment, return_index=True)
        first[clusters] = rows + self._first_row
        return first

    def finish(
        self, centroids: npt.NDArray[np.float32], number_of: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Give the clusters their final numbers, and measure how wide they are.

        Args:
            centroids: (K', D) float32 of the clusters by their final numbers.
            number_of: (K,) final number of each cluster that has members.

        Returns:
            (rows,) int32 cluster of each row, and (K',) int64 sum of the angles of the members to
            their centroid, in radians, in units of 2^-36.
        """
        assignment = number_of.astype(np.int32)[self._assignment]
        angles = np.zeros(len(centroids), dtype=np.int64)
        for number, chunk in enumerate(self._chunks):
            angles += angle_sums(self._rows(number), assignment[chunk], centroids)
        return assignment, angles

    def _rows(self, number: int) -> npt.NDArray[np.float32]:
        if number in self._held:
            return self._held[number]
        chunk = self._chunks[number]
        rows = np.ascontiguousarray(self._read(chunk.start, chunk.stop))
        if rows.nbytes <= self._memory_left:
            self._memory_left -= rows.nbytes
            self._held[number] = rows
        return rows

    def _place(self, number: int, rows: npt.NDArray[np.float32], num_clusters: int) -> Placed:
        if number in self._placed:
            return self._placed[number]
        placed = place(self._backend, rows, num_clusters)
        if number in self._held:
            self._placed[number] = placed
        return placed


def partition_ends(num_rows: int, num_partitions: int) -> npt.NDArray[np.int64]:
    """(num_partitions,) row of the class at which each partition ends.

    All partitions but the last are whole chunks; some are empty if there are fewer chunks.
    """
    num_chunks = -(-num_rows // CHUNK_ROWS)
    chunks = num_chunks * np.arange(1, num_partitions + 1) // num_partitions
    return np.minimum(chunks * CHUNK_ROWS, num_rows)


def _change(
    rows: npt.NDArray[np.float32],
    before: npt.NDArray[np.integer],
    after: npt.NDArray[np.integer],
    num_clusters: int,
    gain: int = 0,
) -> Totals:
    left = before[before >= 0]
    return Totals(
        change_of_sums(rows, before, after, num_clusters).astype(np.int64),
        np.bincount(after, minlength=num_clusters) - np.bincount(left, minlength=num_clusters),
        gain,
        int(np.count_nonzero(before != after)),
    )
