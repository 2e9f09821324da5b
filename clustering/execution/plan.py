"""The plan of a table: the clusters of each class, and the work of each worker.

Pure. The plan never changes the clusters, only who makes them. Cost is counted in row-centroid
comparisons, and per-row overhead in the same unit.

Legend: C classes, N samples, D embedding.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.execution.balancing import Bundle, choose_partitions, jobs_of, make_bundles
from clustering.execution.schedule import makespan
from clustering.execution.transport import Transport, choose_transport
from clustering.kmeans.partitions import CHUNK_ROWS
from data_shards.disk import size_text

Regime = Literal["mean", "fits", "partitioned"]
"""How a class is clustered: a single cluster is a mean; k-means of a class that fits a worker; a
class that exceeds a worker's memory, or would keep the others waiting, is partitioned."""

# Several bundles a worker even out errors of the cost estimate; a lost one costs little.
_BUNDLES_PER_WORKER = 4
# Comparisons that take as long as reading, checking and summing up a row once: measured 3.3 to
# 6 us from the page cache against 23 to 29 ns a comparison, at 512 dimensions; disks take longer.
_ROW_COST = 250
# About a minute of one CPU at 512 dimensions, so that a bundle ends well within its timeout.
_LARGEST_COST = 2e9
# Of the rows of a bundle, as cheap classes have many rows: half a minute at 35 MB/s.
_LARGEST_BYTES = 2**30
# Multiplications below which partitioning a class costs more than it saves: a call of its
# partitions takes some 8 ms, as long as a thousand million of them.
_PARTITIONED_MULTIPLICATIONS = 2e10
_MIB = 2**20


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
    """Every class that a single worker clusters, once; the costliest bundle first."""
    num_partitions: Mapping[int, int]
    """Of each class that is partitioned; so many workers cluster it."""
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
    def partitioned(self) -> tuple[int, ...]:
        """Classes that are partitioned, the costliest first."""
        return tuple(sorted(self.num_partitions, key=lambda c: (-self.costs[c], c)))

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

        All start with the partitioned classes, and take bundles when free. A class keeps its
        workers as long as its largest partition takes.
        """
        jobs = jobs_of(self.num_partitions, self.class_sizes, self.costs, self.bundles)
        return makespan(jobs, self.num_workers) * self.num_workers / float(self.costs.sum())

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
        """Several lines for a person: what each regime has, how even the work is, what is moved."""
        lines = [
            f"{self.num_samples:,} samples of {len(self.class_sizes):,} classes, "
            f"{self.dim:,} dimensions",
            f"{'regime':11} {'classes':>12} {'samples':>14} {'clusters':>12} {'work':>6}",
        ]
        for regime in get_args(Regime):
            own = np.array([name == regime for name in self.regimes])
            samples, clusters = (int(n[own].sum()) for n in (self.class_sizes, self.num_clusters))
            work = self.costs[own].sum() / self.costs.sum()
            lines.append(
                f"{regime:11} {np.count_nonzero(own):12,} {samples:14,} {clusters:12,} {work:6.1%}"
            )
        held, stored, read = self._bytes()
        rows = [
            ("workers", f"{self.num_workers:,}; the busiest has {self.balance:.2f} of the mean"),
            ("bundles", f"{len(self.bundles):,}, the largest of {size_text(held)} of rows"),
            ("rows by", f"{self.transport.route}: {self.transport.reason}"),
            ("moved", f"{size_text(read)} read, {size_text(stored)} through the object store"),
        ]
        if self.waves:
            rows.append(
                ("waves", f"{len(self.waves):,} of at most {size_text(self._wave_bytes())}")
            )
        return "\n".join([*lines, *(f"{name:11} {text}" for name, text in rows), ""])

    def _wave_bytes(self) -> int:
        sizes = self.bundle_bytes
        return max(sum(sizes[number] for number in wave) for wave in self.waves)

    def _bytes(self) -> tuple[int, int, int]:
        """Bytes of the largest bundle, sent through the object store, read from the shards."""
        sizes = self.bundle_bytes
        partitioned = [int(self.class_sizes[c]) * 4 * self.dim for c in self.partitioned]
        held = [min(size, int(self.transport.held_bytes)) for size in partitioned]
        in_waves = sum(sizes[number] for wave in self.waves for number in wave)
        # What is not held is read in each iteration, and to initialise, number and describe.
        again = sum(
            (size - kept) * (self.iterations + 3)
            for size, kept in zip(partitioned, held, strict=True)
        )
        return max(sizes, default=0), in_waves + sum(held), sum(sizes) + sum(held) + again


def clusters_per_class(
    class_sizes: npt.NDArray[np.int64], config: ClusterConfig
) -> npt.NDArray[np.int64]:
    """Wanted number of clusters of each class.

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
    """Spread the classes over workers. Nothing is read, and the clusters do not depend on it.

    Args:
        class_sizes: (C,) int64, samples of each class, C >= 1.
        config: wanted cluster size, the limit, the iterations and the memory of a worker.
        num_workers: calls at a time, >= 1.
        dim: D, length of an embedding.
        num_nodes: machines of the Ray cluster.
        object_store_bytes: of all their object stores together; 0 without Ray; None if not known,
            which counts as large enough.

    Raises:
        ClusterError: when a class has no sample.
    """
    transport = choose_transport(
        config, num_workers=num_workers, num_nodes=num_nodes, object_store_bytes=object_store_bytes
    )
    num_clusters = clusters_per_class(class_sizes, config)
    means = num_clusters == 1
    costs = class_sizes * (np.where(means, 0, num_clusters * config.iterations) + _ROW_COST)
    partitioned = _too_large(class_sizes, costs, config, num_workers=num_workers, dim=dim)
    others = np.flatnonzero(~partitioned)
    least = math.ceil(costs[others].sum() / _LARGEST_COST)
    bundles = make_bundles(
        others,
        class_sizes,
        costs,
        num_bundles=max(least, num_workers * _BUNDLES_PER_WORKER),
        largest_rows=_largest_bytes(transport, num_workers) / (4 * dim),
    )
    num_partitions = choose_partitions(
        np.flatnonzero(partitioned).tolist(),
        class_sizes,
        costs,
        bundles,
        num_workers=num_workers,
        held_rows=transport.held_bytes / num_workers / (4 * dim),
    )
    names = np.where(partitioned, "partitioned", np.where(means, "mean", "fits"))
    return Plan(
        class_sizes=class_sizes,
        num_clusters=num_clusters,
        regimes=tuple(names.tolist()),
        bundles=tuple(bundles),
        num_partitions=num_partitions,
        costs=costs,
        iterations=config.iterations,
        num_workers=num_workers,
        dim=dim,
        transport=transport,
    )


def _largest_bytes(transport: Transport, num_workers: int) -> float:
    """Rows of a bundle, in bytes: so few that a wave has a bundle for each worker."""
    if transport.route == "shared_files":
        return _LARGEST_BYTES
    return min(_LARGEST_BYTES, transport.wave_bytes / num_workers)


def _too_large(
    class_sizes: npt.NDArray[np.int64],
    costs: npt.NDArray[np.int64],
    config: ClusterConfig,
    *,
    num_workers: int,
    dim: int,
) -> npt.NDArray[np.bool_]:
    """(C,) whether a class is too large for a worker's memory, or takes it too long."""
    too_large = class_sizes * 4 * dim > config.memory_mib_per_worker * _MIB
    heaviest_first = np.argsort(-costs, kind="stable")
    sorted_costs = costs[heaviest_first]
    rest = np.cumsum(sorted_costs[::-1])[::-1]
    waited_for = (2 * num_workers * sorted_costs > rest) & (
        sorted_costs * dim > _PARTITIONED_MULTIPLICATIONS
    )
    too_slow = np.zeros(len(costs), dtype=np.bool_)
    if num_workers > 1:
        too_slow[heaviest_first] = np.logical_and.accumulate(waited_for)
    return (class_sizes > CHUNK_ROWS) & (too_large | too_slow)
