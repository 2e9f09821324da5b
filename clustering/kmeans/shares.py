"""A share of the rows of one class: what one worker holds in k-means, and what it tells of them.

A class is divided into chunks of a fixed number of rows, a share is a range of chunks. Shares
return what has changed in sums and counts, and single rows to start from. Whatever is added up is
first rounded to an integer (a multiple of 2^-36), so that it does not matter in which order, how
many shares there are, nor whether rows are summed up anew or only those that came and went.

Legend: n rows of a chunk, D embedding, K clusters of the class, E rows asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.kmeans.backends import BackendName, Placed, place
from clustering.kmeans.exact_sums import UNITS, angle_sums, change_of_sums, in_units

CHUNK_ROWS = 8192
"""Rows that are compared and summed up at a time."""

ReadRows = Callable[[int, int], npt.NDArray[np.float32]]
"""(first, end) of the share's rows -> (end - first, D) those rows."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What shares tell of the clusters: how a call has changed them.

    Adding those of all shares and all calls gives those of the class; before the first call no row
    is in a cluster.
    """

    sums: npt.NDArray[np.int64]
    """(K, D) sum of the members, in units of 2^-36."""
    counts: npt.NDArray[np.int64]
    """(K,) number of members."""
    objective: int
    """Sum of the cosines of the rows and their centroids, in units of 2^-36."""
    changed: int
    """How often a row came to another cluster."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.sums + other.sums,
            self.counts + other.counts,
            self.objective + other.objective,
            self.changed + other.changed,
        )

    @classmethod
    def nothing(cls, num_clusters: int, dim: int) -> Totals:
        """No row in any cluster, or no change."""
        sums = np.zeros((num_clusters, dim), dtype=np.int64)
        return cls(sums, np.zeros(num_clusters, dtype=np.int64), 0, 0)

    @property
    def float_sums(self) -> npt.NDArray[np.float64]:
        """(K, D) sum of the members."""
        return self.sums / UNITS

    @property
    def mean_cosine(self) -> float:
        """Of the rows and the centroids that they were compared with."""
        return self.objective / UNITS / int(self.counts.sum())


@dataclass(frozen=True, slots=True)
class Moves:
    """Rows that may go to another cluster; the first of a cluster lose the least."""

    source: npt.NDArray[np.int64]
    """(E,) cluster that the row is in, ascending."""
    loss: npt.NDArray[np.float32]
    """(E,) cosine with its own centroid minus that with the other, ascending within a cluster."""
    position: npt.NDArray[np.int64]
    """(E,) row of the class."""
    target: npt.NDArray[np.int64]
    """(E,) cluster that it would go to."""

    def cut(self, limits: npt.NDArray[np.int64]) -> Moves:
        """Sort, and keep at most `limits` (K,) rows of each cluster."""
        order = np.lexsort((self.position, self.loss, self.source))
        source = self.source[order]
        rank = np.arange(len(source)) - np.searchsorted(source, source)
        order = order[rank < limits[source]]
        return Moves(self.source[order], self.loss[order], self.position[order], self.target[order])

    @classmethod
    def of_all(cls, parts: list[Moves], limits: npt.NDArray[np.int64]) -> Moves:
        """Join those of several shares or chunks."""
        joined = [
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("source", "loss", "position", "target")
        ]
        return cls(*joined).cut(limits)


@dataclass(frozen=True, slots=True)
class ShareState:
    """What a share knows of its rows from one call to the next."""

    assignment: npt.NDArray[np.int32]
    """(rows,) cluster of each, -1 before the first call."""
    cosines: npt.NDArray[np.float32]
    """(rows,) of each and the centroid that it was last compared with; 0 before the first call."""


CHANGING = frozenset({"step", "move"})
"""Methods of a share that change its state."""


class Share:
    """Rows of a class, the cluster of each, and how near it is to that cluster."""

    def __init__(
        self,
        read: ReadRows,
        num_rows: int,
        *,
        first_row: int = 0,
        backend: BackendName = "faiss-cpu",
        memory_bytes: float = float("inf"),
        state: ShareState | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            read: reads rows of this share, in the order of the class.
            num_rows: how many there are, >= 0.
            first_row: where the share begins in its class, a multiple of `CHUNK_ROWS`.
            backend: who compares rows with centroids.
            memory_bytes: rows beyond are read anew whenever they are needed.
            state: of the same share in another process; None at the beginning. It is copied.
        """
        self._read = read
        self._backend: BackendName = backend
        self._parts = [
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
    def state(self) -> ShareState:
        """What to make the same share of elsewhere."""
        return ShareState(self._assignment, self._cosines)

    def step(self, centroids: npt.NDArray[np.float32]) -> Totals:
        """Give each row to its nearest centroid, and sum up what that changes.

        Args:
            centroids: (K, D) float32, the same K in each call.
        """
        total = Totals.nothing(*centroids.shape)
        for number, part in enumerate(self._parts):
            rows = self._rows(number)
            nearest, cosines = self._place(number, rows, len(centroids)).nearest(centroids)
            gain = int((in_units(cosines) - in_units(self._cosines[part])).sum())
            total += _change(rows, self._assignment[part], nearest, len(centroids), gain)
            self._assignment[part] = nearest
            self._cosines[part] = cosines
        return total

    def take(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Read single rows.

        Args:
            positions: (E,) rows of the class, ascending; those of other shares are left out.

        Returns:
            (up to E, D) float32.
        """
        own = positions - self._first_row
        own = own[(own >= 0) & (own < len(self._assignment))]
        taken = [
            self._rows(number)[own[(own >= part.start) & (own < part.stop)] - part.start]
            for number, part in enumerate(self._parts)
            if np.any((own >= part.start) & (own < part.stop))
        ]
        return np.concatenate(taken) if taken else np.empty((0, 0), dtype=np.float32)

    def farthest(
        self, num_wanted: int, sizes: npt.NDArray[np.int64], below: float
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Find the rows that are farthest from their centroid.

        Args:
            num_wanted: E, at most so many.
            sizes: (K,) members of each cluster in the class; the row of a cluster of one stays.
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
        """Where rows could go that must leave their cluster.

        Args:
            centroids: (K, D) float32.
            limits: (K,) rows that must leave each cluster.
            room: (K,) clusters that rows may go to.
        """
        places = np.flatnonzero(room)
        found = [_no_moves()]
        for number, part in enumerate(self._parts):
            leaving = np.flatnonzero(limits[self._assignment[part]] > 0)
            if not len(leaving):
                continue
            rows = self._rows(number)[leaving]
            source = self._assignment[part][leaving].astype(np.int64)
            nearest, cosines = place(self._backend, rows, len(places)).nearest(centroids[places])
            loss = np.einsum("nd,nd->n", rows, centroids[source]) - cosines
            position = leaving + part.start + self._first_row
            found.append(Moves(source, loss, position, places[nearest]).cut(limits))
        return Moves.of_all(found, limits)

    def move(
        self,
        positions: npt.NDArray[np.int64],
        targets: npt.NDArray[np.int64],
        num_clusters: int,
        dim: int,
    ) -> Totals:
        """Bring rows to other clusters, and sum up what that changes.

        Args:
            positions: (E,) rows of the class; those of other shares are left out.
            targets: (E,) clusters that they go to.
            num_clusters: K.
            dim: D.
        """
        own = positions - self._first_row
        here = (own >= 0) & (own < len(self._assignment))
        moved = self._assignment.copy()
        moved[own[here]] = targets[here]
        total = Totals.nothing(num_clusters, dim)
        for number, part in enumerate(self._parts):
            before, after = self._assignment[part], moved[part]
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
        """Give the clusters their last numbers, and measure how wide they are.

        Args:
            centroids: (K', D) float32 of the clusters by their last numbers.
            number_of: (K,) last number of each cluster that has members.

        Returns:
            (rows,) int32 cluster of each row, and (K',) int64 sum of the angles of the members to
            their centroid, in radians, in units of 2^-36.
        """
        assignment = number_of.astype(np.int32)[self._assignment]
        angles = np.zeros(len(centroids), dtype=np.int64)
        for number, part in enumerate(self._parts):
            angles += angle_sums(self._rows(number), assignment[part], centroids)
        return assignment, angles

    def _rows(self, number: int) -> npt.NDArray[np.float32]:
        if number in self._held:
            return self._held[number]
        part = self._parts[number]
        rows = np.ascontiguousarray(self._read(part.start, part.stop))
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


def share_ends(num_rows: int, num_shares: int) -> npt.NDArray[np.int64]:
    """(num_shares,) rows of a class after which each share ends, all but the last whole chunks.

    Some are empty if there are fewer chunks.
    """
    num_chunks = -(-num_rows // CHUNK_ROWS)
    chunks = num_chunks * np.arange(1, num_shares + 1) // num_shares
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


def _no_moves() -> Moves:
    none = np.empty(0, dtype=np.int64)
    return Moves(none, none.astype(np.float32), none, none)
