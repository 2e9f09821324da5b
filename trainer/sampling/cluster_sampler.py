"""Which images make a step. Pure functions of (seed, step, table, shape): no state.

So a run resumes exactly, any number of ranks trains on the same batches, and the images of coming
steps are known.

Legend: M clusters of the table, C classes, B images of a micro-batch.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from clustering.table.table import ClusterTable
from trainer.sampling.permutations import IntArray, permutation

# Every use of randomness has a stream of its own.
_SEED_CLUSTERS, _SEED_CLASSES, _MEMBERS = range(3)


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """The global batch of a step, over all ranks."""

    micro_batches: int
    """Micro-batches a step."""
    micro_batch_size: int
    """B."""
    clusters: int = 0
    """Clusters of a neighbourhood, which makes a micro-batch drawn by cluster."""
    siblings: int = 0
    """At most this many clusters of the seed's class beside it."""
    max_clusters_per_class: int = 0
    """At most this many clusters of one class; 0 = as many as are near."""
    images_per_class: int = 1
    """Images of a class that are drawn together; of "class_groups" alone."""

    @property
    def num_images(self) -> int:
        """Images of a step."""
        return self.micro_batches * self.micro_batch_size

    def numbers(self, wanted: Sequence[int] | None) -> Sequence[int]:
        """The micro-batches that are wanted; all of them for None."""
        return range(self.micro_batches) if wanted is None else wanted


@dataclass(frozen=True)
class MicroBatchSamples:
    """The images of one micro-batch."""

    sample_ids: IntArray
    """(B,)."""
    classes: IntArray
    """(B,) class of each image."""
    clusters: IntArray | None = None
    """(B,) cluster of each image in the table; None where images are drawn by their labels."""


def cluster_batch(
    table: ClusterTable,
    *,
    seed: int,
    step: int,
    shape: BatchShape,
    seed_by: Literal["class", "cluster"] = "cluster",
    numbers: Sequence[int] | None = None,
) -> list[MicroBatchSamples]:
    """Draw a step's micro-batches, each a neighbourhood around a seed cluster.

    Args:
        table: clusters of the task that the step is for.
        seed: of the run, >= 0.
        step: >= 0; consecutive steps continue the same pass over the seeds.
        shape: of the batch.
        seed_by: "cluster" makes every cluster the seed once a pass; "class" takes every class once
            a pass, and a class's clusters in turn from pass to pass.
        numbers: of the micro-batches that are wanted, in [0, shape.micro_batches); None for all.

    Returns:
        The wanted micro-batches; each the same for the same (seed, step, table version, task,
        shape, number). The seeds do not depend on the version, so that a new table continues
        the pass of the one before.
    """
    stream = (seed, zlib.crc32(table.task.encode()))
    batch = []
    for g in shape.numbers(numbers):
        seed_cluster = _seed_cluster(table, step * shape.micro_batches + g, stream, seed_by)
        rng = np.random.default_rng((*stream, table.version, _MEMBERS, step, g))
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
        `shape.clusters` different clusters, or as many as the table (and the bound on the clusters
        of a class) allows.
    """
    siblings = table.siblings[seed_cluster]
    neighbours = table.neighbours[seed_cluster]
    nearest = [*siblings[siblings >= 0][: shape.siblings], *neighbours[neighbours >= 0]]
    chosen = [seed_cluster, *map(int, nearest)]
    if shape.max_clusters_per_class:
        return _bounded(table, chosen, shape=shape, rng=rng)
    wanted = min(shape.clusters, table.num_clusters)
    chosen = chosen[:wanted]
    if len(chosen) < wanted:
        # As many draws as wanted leave enough, whichever of the chosen are among them.
        others = rng.choice(table.num_clusters, size=wanted, replace=False)
        chosen += [int(j) for j in others if j not in chosen][: wanted - len(chosen)]
    return chosen


def _bounded(
    table: ClusterTable, nearest: list[int], *, shape: BatchShape, rng: np.random.Generator
) -> list[int]:
    """The first of `nearest`, then of all others, that keep to `shape.max_clusters_per_class`."""
    chosen: list[int] = []
    taken: Counter[int] = Counter()

    def take(clusters: Iterable[int]) -> None:
        for j in clusters:
            if len(chosen) == shape.clusters:
                return
            class_ = int(table.class_of[j])
            if taken[class_] < shape.max_clusters_per_class and j not in chosen:
                chosen.append(int(j))
                taken[class_] += 1

    take(nearest)
    if len(chosen) < shape.clusters:
        take(rng.permutation(table.num_clusters))
    return chosen


def draw_members(
    table: ClusterTable, clusters: Sequence[int], *, shape: BatchShape, rng: np.random.Generator
) -> MicroBatchSamples:
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
    share, rest = divmod(shape.micro_batch_size, len(clusters))
    counts = [share + (place < rest) for place in range(len(clusters))]
    ids = [_draw(table.members(j), count, rng) for j, count in zip(clusters, counts, strict=True)]
    cluster_of_image = np.repeat(np.asarray(clusters, np.int64), counts)
    return MicroBatchSamples(
        np.concatenate(ids), table.class_of[cluster_of_image], clusters=cluster_of_image
    )


def _seed_cluster(table: ClusterTable, position: int, stream: tuple[int, ...], seed_by: str) -> int:
    if seed_by == "cluster":
        pass_number, place = divmod(position, table.num_clusters)
        return int(permutation((*stream, _SEED_CLUSTERS, pass_number), table.num_clusters)[place])
    pass_number, place = divmod(position, table.num_classes)
    class_id = permutation((*stream, _SEED_CLASSES, pass_number), table.num_classes)[place]
    of_class = table.clusters_of_class(int(class_id))
    return int(of_class[pass_number % len(of_class)])


def _draw(members: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    rounds, rest = divmod(count, len(members))
    parts = [rng.permutation(members) for _ in range(rounds)]
    parts.append(rng.choice(members, size=rest, replace=False))
    return np.concatenate(parts)
