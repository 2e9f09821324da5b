"""Who clusters what: the number of clusters of each class, and classes in bundles for the workers.

Pure. How a class is clustered never changes its clusters, only who does it. Cost is counted in
row-centroid comparisons, and what is done once to each row as so many of them.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.execution.lanes import seconds_in_lanes
from clustering.execution.transport import Transport, choose_transport
from clustering.kmeans.shares import CHUNK_ROWS, share_ends

Regime = Literal["mean", "fits", "sharded"]
"""How a class is clustered: one cluster is a mean; k-means of what fits a worker; a class that
exceeds a worker's memory, or would keep the others waiting, is divided over several workers."""

# Several bundles a worker even out what the cost estimate gets wrong; a lost one costs little.
_BUNDLES_PER_WORKER = 4
# Comparisons that take as long as to read a row, check it and sum it up once: measured 3.3 to 6 us
# from the page cache against 23 to 29 ns a comparison, at 512 dimensions; disks take longer.
_ROW_COST = 250
# About a minute of one CPU at 512 dimensions, so that a bundle ends well within its timeout.
_LARGEST_COST = 2e9
# Of the rows of a bundle, which may be very many at the same cost: half a minute at 35 MB/s.
_LARGEST_BYTES = 2**30
# Multiplications below which dividing a class over workers costs more than it saves: a call of its
# shares takes some 8 ms, as long as a thousand million of them do.
_SHARDED_MULTIPLICATIONS = 2e10
# Divided classes that are tried to be clustered at the same time, by equal parts of the workers.
_SIDE_BY_SIDE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_MIB = 2**20


@dataclass(frozen=True)
class Bundle:
    """Classes that one task clusters."""

    classes: npt.NDArray[np.int64]
    """Ascending, so that a worker reads its rows in the order of the shards."""
    num_samples: int
    cost: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All the work of a clustering."""

    class_sizes: npt.NDArray[np.int64]
    """(C,) samples of each class."""
    num_clusters: npt.NDArray[np.int64]
    """(C,) wanted clusters of each class."""
    regimes: tuple[Regime, ...]
    """(C,) how each class is clustered."""
    bundles: tuple[Bundle, ...]
    """Every class that a single worker clusters, once; heaviest first."""
    lanes: Mapping[int, int]
    """Of each class that is divided: over how many workers."""
    costs: npt.NDArray[np.int64]
    """(C,) work of each class, in row-centroid comparisons."""
    iterations: int
    """Of k-means, at most."""
    num_workers: int
    dim: int
    transport: Transport

    @property
    def num_samples(self) -> int:
        """N, of all classes."""
        return int(self.class_sizes.sum())

    @property
    def sharded(self) -> tuple[int, ...]:
        """Classes that are divided over workers, the costliest first."""
        return tuple(sorted(self.lanes, key=lambda c: (-self.costs[c], c)))

    @property
    def bundle_bytes(self) -> list[int]:
        """Bytes of the rows of each bundle."""
        return [bundle.num_samples * 4 * self.dim for bundle in self.bundles]

    @property
    def waves(self) -> list[list[int]]:
        """Bundles, by number, whose rows go through the object store together."""
        return self.transport.waves(self.bundle_bytes)

    @property
    def balance(self) -> float:
        """When the last worker is done, as a multiple of the mean work of one.

        All begin with the divided classes, and take bundles when free. A class keeps its workers
        as long as its largest share takes.
        """
        jobs = _jobs(self.lanes, self.class_sizes, self.costs, self.bundles)
        return seconds_in_lanes(jobs, self.num_workers) * self.num_workers / float(self.costs.sum())

    def summary(self) -> str:
        """One line for a log."""
        regimes = ", ".join(
            f"{n:,} {regime}" for regime, n in sorted(Counter(self.regimes).items())
        )
        return (
            f"{self.num_samples:,} samples of {len(self.num_clusters):,} classes ({regimes}) -> "
            f"{self.num_clusters.sum():,} clusters, in {len(self.bundles):,} bundles, "
            f"rows by {self.transport.route} ({self.transport.reason})"
        )

    def describe(self) -> str:
        """Several lines for a person: what each regime has, who works how much, what is moved."""
        lines = [
            f"{self.num_samples:,} samples of {len(self.class_sizes):,} classes, "
            f"{self.dim:,} dimensions",
            f"{'regime':8} {'classes':>12} {'samples':>14} {'clusters':>12} {'work':>6}",
        ]
        for regime in get_args(Regime):
            own = np.array([name == regime for name in self.regimes])
            samples, clusters = (int(n[own].sum()) for n in (self.class_sizes, self.num_clusters))
            work = self.costs[own].sum() / self.costs.sum()
            lines.append(
                f"{regime:8} {np.count_nonzero(own):12,} {samples:14,} {clusters:12,} {work:6.1%}"
            )
        held, stored, read = self._bytes()
        rows = [
            ("workers", f"{self.num_workers:,}; the heaviest has {self.balance:.2f} of the mean"),
            ("bundles", f"{len(self.bundles):,}, the largest of {_size(held)} of rows"),
            ("rows by", f"{self.transport.route}: {self.transport.reason}"),
            ("moved", f"{_size(read)} read, {_size(stored)} through the object store"),
        ]
        if self.waves:
            rows.append(("waves", f"{len(self.waves):,} of at most {_size(self._wave_bytes())}"))
        return "\n".join([*lines, *(f"{name:8} {text}" for name, text in rows), ""])

    def _wave_bytes(self) -> int:
        sizes = self.bundle_bytes
        return max(sum(sizes[number] for number in wave) for wave in self.waves)

    def _bytes(self) -> tuple[int, int, int]:
        """Of the largest bundle; sent through the object store; read from the shards."""
        sizes = self.bundle_bytes
        divided = [int(self.class_sizes[c]) * 4 * self.dim for c in self.sharded]
        held = [min(size, int(self.transport.held_bytes)) for size in divided]
        in_waves = sum(sizes[number] for wave in self.waves for number in wave)
        # What is not held is read in each iteration, and to start, number and finish the clusters.
        anew = sum(
            (size - kept) * (self.iterations + 3) for size, kept in zip(divided, held, strict=True)
        )
        return max(sizes, default=0), in_waves + sum(held), sum(sizes) + sum(held) + anew


def clusters_per_class(
    class_sizes: npt.NDArray[np.int64], config: ClusterConfig
) -> npt.NDArray[np.int64]:
    """Number of clusters to divide each class into.

    Args:
        class_sizes: (C,) int64, samples of each class.
        config: wanted cluster size and the limit.

    Returns:
        (C,) int64: max(1, round(n / target_size)), at most n and the limit.

    Raises:
        ClusterError: when a class has no sample.
    """
    empty = np.flatnonzero(class_sizes < 1)
    if len(empty):
        raise ClusterError(
            f"class {empty[0]} has no sample, nor have {len(empty) - 1} others of the "
            f"{len(class_sizes)} classes; every class needs one: import the data again without "
            "empty classes, and embed all of the train split"
        )
    wanted = np.rint(class_sizes / config.target_size).astype(np.int64)
    limit = config.max_per_class or wanted.max(initial=1)
    return np.clip(wanted, 1, np.minimum(class_sizes, limit))


def make_plan(
    class_sizes: npt.NDArray[np.int64],
    config: ClusterConfig,
    *,
    num_workers: int,
    dim: int,
    num_nodes: int = 1,
    object_store_bytes: int | None = 0,
) -> Plan:
    """Divide the classes over workers. The clusters do not depend on how. Nothing is read.

    Args:
        class_sizes: (C,) int64, samples of each class, C >= 1.
        config: wanted cluster size, the limit, the iterations and the memory of a worker.
        num_workers: tasks that run at a time, >= 1.
        dim: D, length of an embedding.
        num_nodes: machines of the Ray cluster.
        object_store_bytes: of all their object stores together; 0 without Ray, None for not known:
            whatever should be in them is taken to fit.

    Raises:
        ClusterError: when a class has no sample.
    """
    transport = choose_transport(
        config, num_workers=num_workers, num_nodes=num_nodes, object_store_bytes=object_store_bytes
    )
    num_clusters = clusters_per_class(class_sizes, config)
    means = num_clusters == 1
    costs = class_sizes * (np.where(means, 0, num_clusters * config.iterations) + _ROW_COST)
    sharded = _too_large(class_sizes, costs, config, num_workers=num_workers, dim=dim)
    single = np.flatnonzero(~sharded)
    least = math.ceil(costs[single].sum() / _LARGEST_COST)
    num_bundles = max(least, num_workers * _BUNDLES_PER_WORKER)
    largest_bytes: float = _LARGEST_BYTES
    if transport.route == "object_store":  # so small that a wave has one for each worker
        largest_bytes = min(largest_bytes, transport.wave_bytes / num_workers)
    bundles = [
        Bundle(np.sort(classes), int(class_sizes[classes].sum()), float(costs[classes].sum()))
        for dealt in _deal(single, costs, num_bundles)
        for classes in _cut(dealt, class_sizes, largest_bytes / (4 * dim))
    ]
    bundles.sort(key=lambda bundle: (-bundle.cost, bundle.classes[0]))
    lanes = _divide(
        np.flatnonzero(sharded).tolist(),
        class_sizes,
        costs,
        bundles,
        num_workers=num_workers,
        held_rows=transport.held_bytes / num_workers / (4 * dim),
    )
    names = np.where(sharded, "sharded", np.where(means, "mean", "fits"))
    return Plan(
        class_sizes=class_sizes,
        num_clusters=num_clusters,
        regimes=tuple(names.tolist()),
        bundles=tuple(bundles),
        lanes=lanes,
        costs=costs,
        iterations=config.iterations,
        num_workers=num_workers,
        dim=dim,
        transport=transport,
    )


def _too_large(
    class_sizes: npt.NDArray[np.int64],
    costs: npt.NDArray[np.int64],
    config: ClusterConfig,
    *,
    num_workers: int,
    dim: int,
) -> npt.NDArray[np.bool_]:
    """(C,) whether a class is too much for one worker's memory, or for its fair share of time."""
    too_large = class_sizes * 4 * dim > config.memory_mib_per_worker * _MIB
    heaviest_first = np.argsort(-costs, kind="stable")
    sorted_costs = costs[heaviest_first]
    rest = np.cumsum(sorted_costs[::-1])[::-1]
    waited_for = (2 * num_workers * sorted_costs > rest) & (
        sorted_costs * dim > _SHARDED_MULTIPLICATIONS
    )
    too_slow = np.zeros(len(costs), dtype=np.bool_)
    if num_workers > 1:
        too_slow[heaviest_first] = np.logical_and.accumulate(waited_for)
    return (class_sizes > CHUNK_ROWS) & (too_large | too_slow)


def _divide(
    classes: Sequence[int],
    class_sizes: npt.NDArray[np.int64],
    costs: npt.NDArray[np.int64],
    bundles: Sequence[Bundle],
    *,
    num_workers: int,
    held_rows: float,
) -> dict[int, int]:
    """Over how many workers each of the classes is divided: what lets all be done first.

    Shares are whole chunks, so a class alone rarely keeps all workers equally busy; several next to
    each other may.

    Args:
        classes: to be divided.
        class_sizes: (C,) samples of each.
        costs: (C,) of each.
        bundles: all the other work.
        num_workers: of all.
        held_rows: that a worker can hold; a class is divided over so many that all of it is held,
            or over as many as possible.
    """
    widths = sorted({num_workers // number for number in _SIDE_BY_SIDE} - {0}, reverse=True)
    order = sorted(classes, key=lambda c: (-costs[c], c))
    held_chunks = int(held_rows) // CHUNK_ROWS
    choices = [
        tuple(_num_shares(int(class_sizes[c]), width, num_workers, held_chunks) for c in order)
        for width in widths[: len(order) + 1]
    ]
    return min(
        (dict(zip(order, choice, strict=True)) for choice in dict.fromkeys(choices)),
        key=lambda lanes: seconds_in_lanes(_jobs(lanes, class_sizes, costs, bundles), num_workers),
    )


def _num_shares(num_rows: int, wanted: int, most: int, held_chunks: int) -> int:
    """Into how many a class is divided: about so many, without more idle workers than necessary."""
    num_chunks = -(-num_rows // CHUNK_ROWS)
    most = min(most, num_chunks)
    to_be_held = -(-num_chunks // held_chunks) if held_chunks else most
    number = min(most, max(wanted, to_be_held))
    fewer = -(-num_chunks // -(-num_chunks // number))
    return fewer if _largest_share(num_rows, fewer) <= _largest_share(num_rows, number) else number


@lru_cache(maxsize=4096)
def _largest_share(num_rows: int, num_shares: int) -> int:
    return int(np.diff(share_ends(num_rows, num_shares), prepend=0).max())


def _jobs(
    lanes: Mapping[int, int],
    class_sizes: npt.NDArray[np.int64],
    costs: npt.NDArray[np.int64],
    bundles: Sequence[Bundle],
) -> list[tuple[float, int]]:
    """(cost of the largest share, workers) of everything to be done, in its order."""
    divided = [
        (float(costs[c]) * _largest_share(int(class_sizes[c]), num) / float(class_sizes[c]), num)
        for c, num in sorted(lanes.items(), key=lambda item: (-costs[item[0]], item[0]))
    ]
    return divided + [(bundle.cost, 1) for bundle in bundles]


def _deal(
    classes: npt.NDArray[np.int64], costs: npt.NDArray[np.int64], num_bundles: int
) -> list[npt.NDArray[np.int64]]:
    """Deal some of the C classes out, the costliest first, each to the bundle with the least."""
    bundles: list[list[int]] = [[] for _ in range(min(num_bundles, len(classes)))]
    least = [(0, number) for number in range(len(bundles))]
    order = classes[np.argsort(-costs[classes], kind="stable")]
    for class_, its_cost in zip(order.tolist(), costs[order].tolist(), strict=True):
        cost, number = least[0]
        bundles[number].append(class_)
        heapq.heapreplace(least, (cost + its_cost, number))
    return [np.array(bundle, dtype=np.int64) for bundle in bundles]


def _cut(
    bundle: npt.NDArray[np.int64], class_sizes: npt.NDArray[np.int64], most_rows: float
) -> list[npt.NDArray[np.int64]]:
    """Cut a bundle of too many rows into even parts; none exceeds the bound by a class or more."""
    num_parts = math.ceil(class_sizes[bundle].sum() / most_rows)
    return [bundle] if num_parts == 1 else _deal(bundle, class_sizes, num_parts)


def _size(num_bytes: int) -> str:
    """In the largest unit of which there is at least one."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(len(units) - 1, max(0, num_bytes.bit_length() - 1) // 10)
    return f"{num_bytes / 1024**power:,.1f} {units[power]}"
