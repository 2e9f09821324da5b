"""Which images make a step. Pure functions of (seed, step, table or labels, shape): no state.

So a run resumes exactly, any number of ranks trains on the same batches, and the images of coming
steps are known.

Legend: N samples, M clusters of the table, C classes, B images of a neighbourhood.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from clustering.table import ClusterTable
from trainer.errors import ConfigError

IntArray = npt.NDArray[np.int64]
T = TypeVar("T")

# Every use of randomness has a stream of its own.
_SEED_CLUSTERS, _SEED_CLASSES, _MEMBERS, _IMAGES, _CLASSES, _IMAGES_OF_CLASS = range(6)

# Permutations up to this length are made anew in microseconds.
_LONG = 1000


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """The global batch of a step, over all ranks."""

    neighbourhoods: int
    """Neighbourhoods a step; each is one micro-batch."""
    clusters: int
    """Clusters in a neighbourhood."""
    samples_per_cluster: int
    """Images drawn of each cluster."""
    siblings: int
    """At most this many clusters of the seed's class beside it."""

    @property
    def images_per_neighbourhood(self) -> int:
        """B."""
        return self.clusters * self.samples_per_cluster

    @property
    def num_images(self) -> int:
        """Images of a step."""
        return self.neighbourhoods * self.images_per_neighbourhood


@dataclass(frozen=True)
class Neighbourhood:
    """The images of one micro-batch."""

    sample_ids: IntArray
    """(B,)."""
    clusters: IntArray
    """(B,) cluster of each image in the table; -1 where no table was used."""
    classes: IntArray
    """(B,) class of each image."""


def cluster_batch(
    table: ClusterTable,
    *,
    seed: int,
    step: int,
    shape: BatchShape,
    seed_by: Literal["class", "cluster"] = "cluster",
) -> list[Neighbourhood]:
    """Draw a step's neighbourhoods around seed clusters.

    Args:
        table: clusters of the task that the step is for.
        seed: of the run, >= 0.
        step: >= 0; consecutive steps go on in the same pass over the seeds.
        shape: of the batch.
        seed_by: "cluster" makes every cluster the seed once a pass; "class" takes every class once
            a pass, and a class's clusters in turn from pass to pass.

    Returns:
        `shape.neighbourhoods` neighbourhoods; the same for the same (seed, step, table version,
        task, shape).
    """
    stream = (seed, table.version, zlib.crc32(table.task.encode()))
    batch = []
    for g in range(shape.neighbourhoods):
        seed_cluster = _seed_cluster(table, step * shape.neighbourhoods + g, stream, seed_by)
        rng = np.random.default_rng((*stream, _MEMBERS, step, g))
        clusters = neighbourhood(table, seed_cluster, shape=shape, rng=rng)
        batch.append(draw_members(table, clusters, shape=shape, rng=rng))
    return batch


def neighbourhood(
    table: ClusterTable, seed_cluster: int, *, shape: BatchShape, rng: np.random.Generator
) -> list[int]:
    """Choose the clusters around a seed: its siblings, then the nearest of other classes.

    Args:
        table: the clusters and their lists of siblings and neighbours.
        seed_cluster: comes first in the result.
        shape: how many clusters, and how many siblings at most.
        rng: draws further clusters where the table's lists are too short.

    Returns:
        `shape.clusters` different clusters, or all if the table has fewer.
    """
    wanted = min(shape.clusters, table.num_clusters)
    siblings = table.siblings[seed_cluster]
    neighbours = table.neighbours[seed_cluster]
    nearest = [*siblings[siblings >= 0][: shape.siblings], *neighbours[neighbours >= 0]]
    chosen = [seed_cluster, *map(int, nearest)][:wanted]
    if len(chosen) < wanted:
        # As many draws as wanted leave enough, whichever of the chosen are among them.
        others = rng.choice(table.num_clusters, size=wanted, replace=False)
        chosen += [int(j) for j in others if j not in chosen][: wanted - len(chosen)]
    return chosen


def draw_members(
    table: ClusterTable, clusters: Sequence[int], *, shape: BatchShape, rng: np.random.Generator
) -> Neighbourhood:
    """Draw the images of a neighbourhood, as many as `shape` says whatever the clusters' sizes.

    A cluster with too few images repeats them, each as often as the others (give or take one). With
    fewer clusters than `shape.clusters`, the clusters share the places.

    Args:
        table: the clusters and their members.
        clusters: the neighbourhood's, at least one.
        shape: how many images in all.
        rng: draws them.

    Returns:
        The images, cluster by cluster in the order given.
    """
    share, rest = divmod(shape.images_per_neighbourhood, len(clusters))
    counts = [share + (place < rest) for place in range(len(clusters))]
    ids = [_draw(table.members(j), count, rng) for j, count in zip(clusters, counts, strict=True)]
    cluster_of_image = np.repeat(np.asarray(clusters, np.int64), counts)
    return Neighbourhood(np.concatenate(ids), cluster_of_image, table.class_of[cluster_of_image])


def label_batch(
    labels: IntArray,
    ids: IntArray,
    *,
    seed: int,
    step: int,
    shape: BatchShape,
    sampling: Literal["instance", "class_balanced"] = "instance",
) -> list[Neighbourhood]:
    """Draw a step's images without a cluster table, for the classic methods.

    Args:
        labels: (N,) class of each sample; the same array at each step, and never changed, so that
            it is sorted by class only once.
        ids: (N,) sample ids.
        seed: of the run, >= 0.
        step: >= 0.
        shape: only the number of images counts.
        sampling: "instance" takes every image once an epoch; "class_balanced" takes the classes in
            turn, in a new order each round, and every image of a class once before any twice.

    Returns:
        Micro-batches of the sizes of `cluster_batch`'s, with clusters = -1.
    """
    start = step * shape.num_images
    positions = np.arange(start, start + shape.num_images)
    if sampling == "instance":
        rows = _permuted(positions, len(ids), (seed, _IMAGES))
    else:
        rows = _class_balanced_rows(labels, positions, seed)
    return [
        Neighbourhood(ids[part], np.full(len(part), -1, np.int64), labels[part])
        for part in np.split(rows, shape.neighbourhoods)
    ]


def neighbourhoods_per_rank(neighbourhoods: int, world_size: int) -> int:
    """Micro-batches of a step that each rank trains on.

    Raises:
        ConfigError: they do not divide among the ranks.
    """
    if neighbourhoods % world_size:
        raise ConfigError(
            f"sampler.neighbourhoods = {neighbourhoods} does not divide among {world_size} ranks; "
            f"set it to a multiple of {world_size}, or start another number of ranks"
        )
    return neighbourhoods // world_size


def rank_share(batch: Sequence[T], rank: int, world_size: int) -> list[T]:
    """One rank's part of a step: every world-size-th micro-batch.

    Raises:
        ConfigError: the micro-batches do not divide among the ranks.
    """
    neighbourhoods_per_rank(len(batch), world_size)
    return list(batch[rank::world_size])


def _seed_cluster(table: ClusterTable, position: int, stream: tuple[int, ...], seed_by: str) -> int:
    if seed_by == "cluster":
        pass_number, place = divmod(position, table.num_clusters)
        return int(_permutation((*stream, _SEED_CLUSTERS, pass_number), table.num_clusters)[place])
    pass_number, place = divmod(position, table.num_classes)
    class_id = _permutation((*stream, _SEED_CLASSES, pass_number), table.num_classes)[place]
    of_class = table.clusters_of_class(int(class_id))
    return int(of_class[pass_number % len(of_class)])


def _draw(members: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    rounds, rest = divmod(count, len(members))
    parts = [rng.permutation(members) for _ in range(rounds)]
    parts.append(rng.choice(members, size=rest, replace=False))
    return np.concatenate(parts)


def _permuted(positions: IntArray, size: int, stream: tuple[int, ...]) -> IntArray:
    """Rows at positions in an endless series of permutations of range(size)."""
    passes, places = np.divmod(positions, size)
    rows = np.empty_like(positions)
    for pass_number in np.unique(passes).tolist():
        now = passes == pass_number
        rows[now] = _permutation((*stream, pass_number), size)[places[now]]
    return rows


def _class_balanced_rows(labels: IntArray, positions: IntArray, seed: int) -> IntArray:
    order, starts = _by_class(_Identical(labels))
    num_classes = len(starts) - 1
    classes = _permuted(positions, num_classes, (seed, _CLASSES))
    # Each round takes each class once, so a class's n-th image is that of round n.
    rounds = positions // num_classes
    rows = np.empty_like(positions)
    for c in np.unique(classes).tolist():
        now = classes == c
        members = order[starts[c] : starts[c + 1]]
        rows[now] = members[_permuted(rounds[now], len(members), (seed, _IMAGES_OF_CLASS, c))]
    return rows


def _permutation(stream: tuple[int, ...], size: int) -> IntArray:
    """The permutation of range(size) that belongs to this stream."""
    permute = _kept_permutation if size > _LONG else _new_permutation
    return permute(stream, size)


def _new_permutation(stream: tuple[int, ...], size: int) -> IntArray:
    permutation = np.random.default_rng(stream).permutation(size)
    permutation.flags.writeable = False  # it may be kept, and given out again
    return permutation


# Long ones serve many steps; those at hand of a few tasks are kept (8 MB for a million rows).
_kept_permutation = lru_cache(maxsize=8)(_new_permutation)


class _Identical:
    """Makes an array a cache key by its identity, not its content; the cache keeps it alive."""

    def __init__(self, array: IntArray) -> None:
        self.array = array

    def __hash__(self) -> int:
        return id(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identical) and other.array is self.array


@lru_cache(maxsize=8)
def _by_class(labels: _Identical) -> tuple[IntArray, IntArray]:
    """Rows ordered by class (N,), and where each class that occurs starts (classes + 1,)."""
    order = np.argsort(labels.array, kind="stable")
    _, starts = np.unique(labels.array[order], return_index=True)
    return order, np.append(starts, len(order))
