"""Spherical k-means of one class.

The same rows, settings and seed give the same clusters to the last bit: in any process, with any
number of threads, however the rows are divided into shares. Another kind of CPU, another backend or
another release of FAISS may round differently.

Legend: n rows of the class, D embedding, K clusters of the class.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from clustering.config import ClusterConfig
from clustering.kmeans.backends import BackendName, one_thread
from clustering.kmeans.exact_sums import mean_angles
from clustering.kmeans.initial import initial_centroids
from clustering.kmeans.means import directions
from clustering.kmeans.shares import Moves, Share, Totals

Answer = TypeVar("Answer")

_REPAIRS = 4  # rounds; with few duplicates one is enough
_SAME_COSINE = 1.0 - 1e-6  # of a row and its own centroid, up to rounding


@dataclass(frozen=True)
class KMeansResult:
    """The clusters of a class; numbered by their first member, none of them empty."""

    centroids: npt.NDArray[np.float32]
    """(K, D) unit rows: the direction of the mean of the members."""
    assignment: npt.NDArray[np.int32]
    """(n,) cluster of each row, 0 .. K - 1."""
    spread: npt.NDArray[np.float32]
    """(K,) mean angle between members and centroid, in radians."""
    concentration: npt.NDArray[np.float32]
    """(K,) length of the mean of the members, in [0, 1]."""
    objective: float
    """Mean cosine of a row and its centroid, in [-1, 1]; k-means maximises it."""
    iterations: int
    """Iterations made; 0 for a single cluster, which is a mean."""


class Group(Protocol):
    """All shares of a class, wherever they are."""

    @property
    def num_rows(self) -> int:
        """Rows n of the class."""

    @property
    def dim(self) -> int:
        """Length D of a row."""

    @property
    def seconds(self) -> float:
        """Time that all shares spent on their answers so far."""

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every `Share`; their answers, in the order of the rows."""

    def fold(
        self, join: Callable[[Answer, Answer], Answer], method: str, *arguments: Any
    ) -> Answer:
        """Call a method of every `Share`; their answers joined in any order, as they come.

        So memory has a few answers at a time, not those of all shares.
        """


@dataclass
class LocalGroup:
    """Shares in this process."""

    shares: Sequence[Share]
    num_rows: int
    dim: int
    seconds: float = 0.0

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """See `Group`."""
        started = time.monotonic()
        answers = [getattr(share, method)(*arguments) for share in self.shares]
        self.seconds += time.monotonic() - started
        return answers

    def fold(
        self, join: Callable[[Answer, Answer], Answer], method: str, *arguments: Any
    ) -> Answer:
        """See `Group`."""
        started = time.monotonic()
        joined: Answer = reduce(join, (getattr(share, method)(*arguments) for share in self.shares))
        self.seconds += time.monotonic() - started
        return joined


def spherical_kmeans(
    rows: npt.NDArray[np.float32],
    num_clusters: int,
    *,
    config: ClusterConfig,
    seed: int,
    warm: npt.NDArray[np.float32] | None = None,
    backend: BackendName = "faiss-cpu",
) -> KMeansResult:
    """Divide the rows of a class into clusters by direction: `kmeans_of_shares` of one share.

    Args:
        rows: (n, D) float32, finite unit rows.
        num_clusters: wanted K, 1 <= K <= n.
        config: iterations, tolerance, start, smallest and largest cluster.
        seed: of the rows to start from, >= 0.
        warm: (any, D) float32 centroids to start from; None for rows.
        backend: who compares rows with centroids.

    Returns:
        At most `num_clusters` clusters.

    Raises:
        ValueError: when the number of clusters does not fit the rows.
    """
    rows = np.ascontiguousarray(rows)
    share = Share(lambda first, end: rows[first:end], len(rows), backend=backend)
    group = LocalGroup((share,), *rows.shape)
    with one_thread():
        return kmeans_of_shares(group, num_clusters, config=config, seed=seed, warm=warm)


def kmeans_of_shares(
    group: Group,
    num_clusters: int,
    *,
    config: ClusterConfig,
    seed: int,
    warm: npt.NDArray[np.float32] | None = None,
) -> KMeansResult:
    """Divide a class into clusters by direction, by Lloyd's iterations over its shares.

    An iteration gives each row to the nearest centroid; a cluster's centroid is then the direction
    of the mean of its members. A centroid without a row starts anew at the row that is farthest
    from its own centroid; where no row is far from its own, as with fewer distinct rows than
    clusters, it is dropped. After the last iteration the rows of clusters smaller than
    `min_cluster_size` go to the nearest other clusters, and clusters larger than `balance` allows
    give away the rows that lose the least.

    The centroids returned are the directions of the means of the members, so that a table's
    centroids, members and spreads fit together exactly; a row at a border may therefore be a
    little nearer to another one.

    Args:
        group: the shares of the class.
        num_clusters: wanted K, 1 <= K <= n.
        config: iterations, tolerance, start, smallest and largest cluster.
        seed: of the rows to start from, >= 0.
        warm: (any, D) float32 centroids to start from; None for rows.

    Returns:
        At most `num_clusters` clusters.

    Raises:
        ValueError: when the number of clusters does not fit the rows.
    """
    if not 1 <= num_clusters <= group.num_rows:
        raise ValueError(
            f"the number of clusters must be in 1..{group.num_rows} for {group.num_rows} rows, "
            f"got {num_clusters}"
        )
    if num_clusters == 1:
        only = np.zeros((1, group.dim), dtype=np.float32)  # whatever it is, all rows go there
        return _finish(group, group.fold(Totals.__add__, "step", only), iterations=0)
    centroids = initial_centroids(
        partial(_take, group), group.num_rows, num_clusters, config.init, seed=seed, warm=warm
    )
    totals, iterations = _iterate(group, centroids, config)
    return finish_kmeans(group, totals, config, iterations)


def finish_kmeans(
    group: Group, totals: Totals, config: ClusterConfig, iterations: int
) -> KMeansResult:
    """Do what comes after the iterations: mend clusters of a wrong size, number, describe.

    Args:
        group: the shares of the class, each of their rows in its cluster.
        totals: of these clusters.
        config: smallest and largest cluster.
        iterations: made before.
    """
    totals = _dissolve_small(group, totals, config.min_cluster_size)
    if config.balance:
        totals = _bound_large(group, totals, config.balance)
    return _finish(group, totals, iterations)


def _iterate(
    group: Group, centroids: npt.NDArray[np.float32], config: ClusterConfig
) -> tuple[Totals, int]:
    """Iterate to the end; the totals of the rows' last clusters, and the iterations made."""
    before = -np.inf
    totals = Totals.nothing(*centroids.shape)
    for iteration in range(1, config.iterations + _REPAIRS + 1):
        change = group.fold(Totals.__add__, "step", centroids)
        totals += change
        gain, before = totals.mean_cosine - before, totals.mean_cosine
        settled = iteration > 1 and (
            change.changed == 0 or gain <= config.tolerance * abs(totals.mean_cosine)
        )
        empty = np.flatnonzero(totals.counts == 0)
        last = settled or iteration >= config.iterations
        if last and not len(empty):
            break
        seeds = _far_rows(group, totals, len(empty))
        if last and not len(seeds):
            break
        centroids = _directions(group, totals, centroids)[0]
        centroids[empty[: len(seeds)]] = seeds
    return totals, min(iteration, config.iterations)


def _far_rows(group: Group, totals: Totals, num_wanted: int) -> npt.NDArray[np.float32]:
    """(at most wanted, D) rows that are far from their centroids."""
    none = np.empty((0, group.dim), dtype=np.float32)
    if not num_wanted:
        return none
    parts = group.call("farthest", num_wanted, totals.counts, _SAME_COSINE)
    cosines, positions = (np.concatenate(column) for column in zip(*parts, strict=True))
    chosen = positions[np.lexsort((positions, cosines))[:num_wanted]]
    return _take(group, np.sort(chosen)) if len(chosen) else none


def _take(group: Group, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(E, D) rows by their ascending (E,) positions."""
    return np.concatenate([rows for rows in group.call("take", positions) if len(rows)])


def _directions(
    group: Group, totals: Totals, instead: npt.NDArray[np.float32] | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """The direction and the length of the mean of each cluster.

    Args:
        group: the class, to look up first members.
        totals: its clusters.
        instead: (K, D) for clusters whose mean has no direction; None for the first member, and
            NaN where there is no member.
    """
    means = totals.float_sums / np.maximum(totals.counts, 1)[:, np.newaxis]
    lengths, centroids = directions(means)
    cancelled = np.isnan(centroids[:, 0])
    if instead is not None:
        centroids[cancelled] = instead[cancelled]
        return centroids, lengths
    clusters = np.flatnonzero(cancelled & (totals.counts > 0))
    if len(clusters):
        first = group.fold(np.minimum, "first_members", len(lengths))[clusters]
        order = np.argsort(first)
        centroids[clusters[order]] = _take(group, first[order])
    return centroids, lengths


def _dissolve_small(group: Group, totals: Totals, smallest: int) -> Totals:
    """Bring the rows of too small clusters to the nearest of the others; the largest one stays."""
    counts = totals.counts
    small = (counts > 0) & (counts < smallest)
    small[np.argmax(counts)] = False
    if not small.any():
        return totals
    room = (counts > 0) & ~small
    centroids, _ = _directions(group, totals, np.zeros(totals.sums.shape, dtype=np.float32))
    return totals + _move(group, centroids, limits=np.where(small, counts, 0), room=room)


def _bound_large(group: Group, totals: Totals, balance: float) -> Totals:
    """Move rows out of clusters that are too large, those first that lose the least.

    A cluster that was once full takes no more rows, so each round fills one or is the last.
    """
    there = totals.counts > 0
    largest = largest_cluster(group.num_rows, int(np.count_nonzero(there)), balance)
    room = there & (totals.counts < largest)
    while (totals.counts > largest).any():
        excess = np.maximum(totals.counts - largest, 0)
        centroids, _ = _directions(group, totals, np.zeros(totals.sums.shape, dtype=np.float32))
        totals += _move(group, centroids, limits=excess, room=room)
        room &= totals.counts < largest
    return totals


def largest_cluster(num_rows: int, num_clusters: int, balance: float) -> int:
    """Rows that a cluster may have where `balance` bounds it."""
    return int(np.ceil(balance * num_rows / num_clusters))


def _move(
    group: Group,
    centroids: npt.NDArray[np.float32],
    *,
    limits: npt.NDArray[np.int64],
    room: npt.NDArray[np.bool_],
) -> Totals:
    """Move rows out of clusters, and tell what that changes."""
    moves = Moves.of_all(group.call("moves", centroids, limits, room), limits)
    return group.fold(Totals.__add__, "move", moves.position, moves.target, *centroids.shape)


def _finish(group: Group, totals: Totals, iterations: int) -> KMeansResult:
    """Number the clusters that have members by the first of them, and describe them."""
    first = group.fold(np.minimum, "first_members", len(totals.counts))
    order = np.argsort(first, kind="stable")[: np.count_nonzero(totals.counts)]
    number_of = np.full(len(first), -1)
    number_of[order] = np.arange(len(order))
    centroids, lengths = _directions(group, totals)
    centroids, lengths, counts = centroids[order], lengths[order], totals.counts[order]
    assignments, angles = zip(*group.call("finish", centroids, number_of), strict=True)
    return KMeansResult(
        centroids=centroids,
        assignment=np.concatenate(assignments),
        spread=mean_angles(np.sum(angles, axis=0), counts),
        concentration=lengths.astype(np.float32),
        # A cluster's rows have the mean cosine |mean| with the direction of their mean.
        objective=float(lengths @ counts / group.num_rows),
        iterations=iterations,
    )
