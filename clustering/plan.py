"""Who clusters what: the number of clusters of each class, and classes in bundles for the workers.

Pure. How a class is clustered never changes its clusters, only who does it. Cost is counted in
row-centroid comparisons.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.shares import CHUNK_ROWS

Regime = Literal["mean", "fits", "sharded"]
"""How a class is clustered: one cluster is a mean; k-means of what fits a worker; a class that
exceeds a worker's memory, or would keep the others waiting, is divided over all workers."""

# Several bundles a worker even out what the cost estimate gets wrong; a lost one costs little.
_BUNDLES_PER_WORKER = 4
# About half a minute of one CPU at 512 dimensions, so that a share ends well within its timeout.
_LARGEST_COST = 2e9
# Multiplications below which dividing a class over workers costs more than it saves.
_SHARDED_MULTIPLICATIONS = 5e9
_MIB = 2**20


@dataclass(frozen=True)
class Bundle:
    """Classes that one task clusters."""

    classes: npt.NDArray[np.int64]
    """Ascending, so that a worker reads its rows in the order of the shards."""
    num_samples: int
    cost: float


@dataclass(frozen=True)
class Plan:
    """All the work of a clustering."""

    num_samples: int
    num_clusters: npt.NDArray[np.int64]
    """(C,) wanted clusters of each class."""
    regimes: tuple[Regime, ...]
    """(C,) how each class is clustered."""
    bundles: tuple[Bundle, ...]
    """Every class that a single worker clusters, once; heaviest first."""

    @property
    def sharded(self) -> tuple[int, ...]:
        """Classes that are divided over all workers, ascending."""
        return tuple(c for c, regime in enumerate(self.regimes) if regime == "sharded")

    def describe(self) -> str:
        """One line for a log."""
        regimes = ", ".join(
            f"{n:,} {regime}" for regime, n in sorted(Counter(self.regimes).items())
        )
        return (
            f"{self.num_samples:,} samples of {len(self.num_clusters):,} classes ({regimes}) -> "
            f"{self.num_clusters.sum():,} clusters, in {len(self.bundles):,} bundles"
        )


def clusters_per_class(
    class_sizes: npt.NDArray[np.int64], config: ClusterConfig
) -> npt.NDArray[np.int64]:
    """Number of clusters to divide each class into.

    Args:
        class_sizes: (C,) int64, samples of each class.
        config: wanted cluster size and the limit.

    Returns:
        (C,) int64: max(1, round(n / samples_per_cluster)), at most n and the limit.

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
    wanted = np.rint(class_sizes / config.samples_per_cluster).astype(np.int64)
    limit = config.max_clusters_per_class or wanted.max(initial=1)
    return np.clip(wanted, 1, np.minimum(class_sizes, limit))


def make_plan(
    class_sizes: npt.NDArray[np.int64], config: ClusterConfig, *, num_workers: int, dim: int
) -> Plan:
    """Divide the classes over workers. The clusters do not depend on how.

    Args:
        class_sizes: (C,) int64, samples of each class, C >= 1.
        config: wanted cluster size, the limit, the iterations and the memory of a worker.
        num_workers: tasks that run at a time, >= 1.
        dim: D, length of an embedding.

    Raises:
        ClusterError: when a class has no sample.
    """
    num_clusters = clusters_per_class(class_sizes, config)
    means = num_clusters == 1
    costs = np.where(means, class_sizes, class_sizes * num_clusters * config.iterations)
    sharded = _too_large(class_sizes, costs, config, num_workers=num_workers, dim=dim)
    single = np.flatnonzero(~sharded)
    cost = costs[single].sum()
    num_bundles = max(num_workers * _BUNDLES_PER_WORKER, int(np.ceil(cost / _LARGEST_COST)))
    bundles = [
        Bundle(np.sort(classes), int(class_sizes[classes].sum()), float(costs[classes].sum()))
        for classes in _spread(single, costs[single], min(num_bundles, len(single)))
    ]
    bundles.sort(key=lambda bundle: (-bundle.cost, bundle.classes[0]))
    names = np.where(sharded, "sharded", np.where(means, "mean", "fits"))
    return Plan(int(class_sizes.sum()), num_clusters, tuple(names.tolist()), tuple(bundles))


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


def _spread(
    classes: npt.NDArray[np.int64], costs: npt.NDArray[np.int64], num_bundles: int
) -> list[npt.NDArray[np.int64]]:
    """Deal the classes out, the costliest first, each to the bundle that has the least so far."""
    bundles: list[list[int]] = [[] for _ in range(num_bundles)]
    least = [(0, number) for number in range(num_bundles)]
    order = np.argsort(-costs, kind="stable")
    for class_, its_cost in zip(classes[order].tolist(), costs[order].tolist(), strict=True):
        cost, number = least[0]
        bundles[number].append(class_)
        heapq.heapreplace(least, (cost + its_cost, number))
    return [np.array(bundle, dtype=np.int64) for bundle in bundles]
