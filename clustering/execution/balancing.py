"""How the classes are spread evenly over workers: dealt out in bundles, or partitioned.

Pure. Cost is counted in row-centroid comparisons.

Legend: C classes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from clustering.execution.schedule import makespan
from clustering.kmeans.partitions import CHUNK_ROWS, partition_ends

# Numbers of partitioned classes that may be clustered at a time, each by as many workers.
_SIDE_BY_SIDE = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True)
class Bundle:
    """Classes that one call clusters."""

    classes: npt.NDArray[np.int64]
    """Ascending, so that a worker reads its rows in the order of the shards."""
    num_samples: int
    cost: float


def make_bundles(
    classes: npt.NDArray[np.int64],
    class_sizes: npt.NDArray[np.int64],
    costs: npt.NDArray[np.int64],
    *,
    num_bundles: int,
    largest_rows: float,
) -> list[Bundle]:
    """Spread classes over bundles of about equal cost.

    Args:
        classes: those that are not partitioned.
        class_sizes: (C,) samples of each class.
        costs: (C,) of each class.
        num_bundles: wanted number.
        largest_rows: a bundle of more rows is cut into even parts; a part may exceed this by less
            than a class.

    Returns:
        The costliest first.
    """
    bundles = [
        Bundle(np.sort(own), int(class_sizes[own].sum()), float(costs[own].sum()))
        for dealt in _deal(classes, costs, num_bundles)
        for own in _cut(dealt, class_sizes, largest_rows)
    ]
    return sorted(bundles, key=lambda bundle: (-bundle.cost, bundle.classes[0]))


def choose_partitions(
    classes: Sequence[int],
    class_sizes: npt.NDArray[np.int64],
    costs: npt.NDArray[np.int64],
    bundles: Sequence[Bundle],
    *,
    num_workers: int,
    held_rows: float,
) -> dict[int, int]:
    """Choose the number of partitions of each class, so that all work is done earliest.

    Partitions are whole chunks, so a class alone rarely keeps all workers equally busy; several
    side by side may.

    Args:
        classes: those to be partitioned.
        class_sizes: (C,) samples of each class.
        costs: (C,) of each class.
        bundles: all the other work.
        num_workers: all workers.
        held_rows: rows that a worker can hold; a class gets so many partitions that all of it is
            held, or as many as there can be.
    """
    widths = sorted({num_workers // number for number in _SIDE_BY_SIDE} - {0}, reverse=True)
    order = sorted(classes, key=lambda c: (-costs[c], c))
    held_chunks = int(held_rows) // CHUNK_ROWS
    choices = [
        tuple(_num_partitions(int(class_sizes[c]), width, num_workers, held_chunks) for c in order)
        for width in widths[: len(order) + 1]
    ]
    return min(
        (dict(zip(order, choice, strict=True)) for choice in dict.fromkeys(choices)),
        key=lambda num_partitions: makespan(
            jobs_of(num_partitions, class_sizes, costs, bundles), num_workers
        ),
    )


def jobs_of(
    num_partitions: Mapping[int, int],
    class_sizes: npt.NDArray[np.int64],
    costs: npt.NDArray[np.int64],
    bundles: Sequence[Bundle],
) -> list[tuple[float, int]]:
    """(cost of the largest partition, workers) of all the work, in its order.

    Args:
        num_partitions: of each partitioned class.
        class_sizes: (C,) samples of each class.
        costs: (C,) of each class.
        bundles: all the other work.
    """
    costliest_first = sorted(num_partitions.items(), key=lambda item: (-costs[item[0]], item[0]))
    partitioned = [
        (float(costs[c]) * _largest_partition(int(class_sizes[c]), n) / float(class_sizes[c]), n)
        for c, n in costliest_first
    ]
    return partitioned + [(bundle.cost, 1) for bundle in bundles]


def _num_partitions(num_rows: int, wanted: int, most: int, held_chunks: int) -> int:
    """Partitions of a class: about the wanted number, without more idle workers than necessary."""
    num_chunks = -(-num_rows // CHUNK_ROWS)
    most = min(most, num_chunks)
    to_be_held = -(-num_chunks // held_chunks) if held_chunks else most
    number = min(most, max(wanted, to_be_held))
    fewer = -(-num_chunks // -(-num_chunks // number))
    no_larger = _largest_partition(num_rows, fewer) <= _largest_partition(num_rows, number)
    return fewer if no_larger else number


@lru_cache(maxsize=4096)
def _largest_partition(num_rows: int, num_partitions: int) -> int:
    return int(np.diff(partition_ends(num_rows, num_partitions), prepend=0).max())


def _deal(
    classes: npt.NDArray[np.int64], costs: npt.NDArray[np.int64], num_bundles: int
) -> list[npt.NDArray[np.int64]]:
    """Deal out some of the C classes, the costliest first, each to the bundle of the least cost."""
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
    """Cut a bundle of too many rows into even parts; none exceeds the limit by a class or more."""
    num_parts = math.ceil(class_sizes[bundle].sum() / most_rows)
    return [bundle] if num_parts == 1 else _deal(bundle, class_sizes, num_parts)
