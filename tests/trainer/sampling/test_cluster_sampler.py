"""The sampler: pure, complete, the same for any number of ranks, never stuck on small classes."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from clustering.table.table import ClusterTable
from tests.helpers.sized_tables import make_table
from trainer.runtime.world import micro_batches_of_rank
from trainer.sampling.cluster_sampler import (
    BatchShape,
    MicroBatchSamples,
    cluster_batch,
    draw_members,
    neighbourhood,
)

SHAPE = BatchShape(micro_batches=2, micro_batch_size=12, clusters=4, siblings=1)
# Five classes; the third has one cluster of one sample.
SIZES = [[9, 4, 6], [5, 5], [1], [2, 30], [12]]


@pytest.fixture
def table() -> ClusterTable:
    table = make_table(SIZES)
    table.validate()
    return table


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def fields(batch: list[MicroBatchSamples]) -> list[list[list[int]]]:
    return [[n.sample_ids.tolist(), n.clusters.tolist(), n.classes.tolist()] for n in batch]


def seeds(table: ClusterTable, steps: range, seed_by: str) -> list[int]:
    """The seed clusters of these steps: each neighbourhood starts with its seed."""
    batches = (
        cluster_batch(table, seed=3, step=step, shape=SHAPE, seed_by=seed_by) for step in steps
    )
    return [int(n.clusters[0]) for batch in batches for n in batch]


# -- choosing clusters -----------------------------------------------------------------


def test_a_neighbourhood_is_the_seed_its_siblings_and_the_nearest_others(
    table: ClusterTable,
) -> None:
    for seed_cluster in range(table.num_clusters):
        closeness = table.centroids @ table.centroids[seed_cluster]
        by_closeness = sorted(range(table.num_clusters), key=lambda j: -closeness[j])
        own_class = table.class_of[seed_cluster]
        same = [j for j in by_closeness if table.class_of[j] == own_class and j != seed_cluster]
        others = [j for j in by_closeness if table.class_of[j] != own_class]
        expected = [seed_cluster, *same[: SHAPE.siblings], *others][: SHAPE.clusters]
        assert neighbourhood(table, seed_cluster, shape=SHAPE, rng=rng()) == expected


def test_short_lists_are_filled_with_further_clusters() -> None:
    table = make_table(SIZES, neighbours=1, siblings=1)
    wide = replace(SHAPE, clusters=7)
    seen: Counter[int] = Counter()
    for draw in range(200):
        chosen = neighbourhood(table, 0, shape=wide, rng=np.random.default_rng(draw))
        assert chosen[:3] == [0, table.siblings[0, 0], table.neighbours[0, 0]]
        assert len(set(chosen)) == len(chosen) == 7
        seen.update(chosen)
    assert set(seen) == set(range(table.num_clusters))


@pytest.mark.parametrize("sizes", [SIZES, [[3]], [[3, 4]], [[3], [4]]])
def test_a_small_table_gives_all_its_clusters(sizes: list[list[int]]) -> None:
    table = make_table(sizes)
    wide = replace(SHAPE, clusters=50, siblings=10)
    chosen = neighbourhood(table, 0, shape=wide, rng=rng())
    assert sorted(chosen) == list(range(table.num_clusters))


def test_a_bound_keeps_to_the_nearest_clusters_that_it_allows(table: ClusterTable) -> None:
    bounded = replace(SHAPE, clusters=5, siblings=2, max_clusters_per_class=1)
    for seed_cluster in range(table.num_clusters):
        closeness = table.centroids @ table.centroids[seed_cluster]
        expected = [seed_cluster]
        for j in sorted(range(table.num_clusters), key=lambda j: -closeness[j]):
            if table.class_of[j] not in table.class_of[expected]:
                expected.append(j)
        assert neighbourhood(table, seed_cluster, shape=bounded, rng=rng()) == expected


@pytest.mark.parametrize(("bound", "allowed"), [(1, 5), (2, 8), (3, 9)])
def test_a_bound_allows_fewer_clusters_than_wanted(bound: int, allowed: int) -> None:
    table = make_table(SIZES, neighbours=1, siblings=1)
    shape = replace(SHAPE, clusters=50, siblings=10, max_clusters_per_class=bound)
    chosen = neighbourhood(table, 0, shape=shape, rng=rng())
    assert len(set(chosen)) == len(chosen) == allowed
    assert max(Counter(table.class_of[chosen].tolist()).values()) <= bound
    batch = cluster_batch(table, seed=0, step=0, shape=shape)
    assert all(len(part.sample_ids) == shape.micro_batch_size for part in batch)


# -- drawing images --------------------------------------------------------------------


def test_each_cluster_gives_its_share_of_its_own_images(table: ClusterTable) -> None:
    drawn = draw_members(table, [7, 0, 3, 1], shape=SHAPE, rng=rng())
    assert drawn.clusters.tolist() == [7] * 3 + [0] * 3 + [3] * 3 + [1] * 3
    assert drawn.classes.tolist() == table.class_of[drawn.clusters].tolist()
    for sample, cluster in zip(drawn.sample_ids, drawn.clusters, strict=True):
        assert sample in table.members(cluster)
    assert len(set(drawn.sample_ids.tolist())) == 12  # all four are large enough not to repeat


@pytest.mark.parametrize(
    ("size", "expected"), [(1, [7]), (2, [3, 4]), (3, [2, 2, 3]), (7, [1] * 7)]
)
def test_a_small_cluster_repeats_its_images_evenly(size: int, expected: list[int]) -> None:
    table = make_table([[size], [50]])
    shape = replace(SHAPE, clusters=2, micro_batch_size=14)
    drawn = draw_members(table, [0, 1], shape=shape, rng=rng())
    counts = Counter(drawn.sample_ids[drawn.clusters == 0].tolist())
    assert sorted(counts.values()) == expected


@pytest.mark.parametrize(
    ("clusters", "counts"), [([4], [12]), ([4, 0], [6, 6]), ([4, 0, 3, 1, 8], [3, 3, 2, 2, 2])]
)
def test_other_numbers_of_clusters_share_the_places(
    table: ClusterTable, clusters: list[int], counts: list[int]
) -> None:
    drawn = draw_members(table, clusters, shape=SHAPE, rng=rng())
    assert drawn.clusters.tolist() == np.repeat(clusters, counts).tolist()


@pytest.mark.parametrize("sizes", [[[1]], [[1], [1]], [[1, 1, 1]], [[2], [1, 1]], SIZES])
@pytest.mark.parametrize("seed_by", ["class", "cluster"])
def test_every_batch_is_full_whatever_the_sizes(sizes: list[list[int]], seed_by: str) -> None:
    table = make_table(sizes)
    for step in range(5):
        batch = cluster_batch(table, seed=0, step=step, shape=SHAPE, seed_by=seed_by)
        assert len(batch) == SHAPE.micro_batches
        for part in batch:
            arrays = (part.sample_ids, part.clusters, part.classes)
            assert [a.shape for a in arrays] == [(SHAPE.micro_batch_size,)] * 3
            assert [a.dtype for a in arrays] == [np.int64] * 3


# -- cluster batches: pure, and every cluster in its turn --------------------------------


def test_the_same_arguments_give_the_same_batch(table: ClusterTable) -> None:
    again = make_table(SIZES)
    for step in (0, 7, 10**6):
        first = cluster_batch(table, seed=1, step=step, shape=SHAPE)
        assert fields(first) == fields(cluster_batch(again, seed=1, step=step, shape=SHAPE))


def test_step_seed_version_and_task_all_change_the_batch(table: ClusterTable) -> None:
    batches = [
        cluster_batch(table, seed=1, step=5, shape=SHAPE),
        cluster_batch(table, seed=1, step=6, shape=SHAPE),
        cluster_batch(table, seed=2, step=5, shape=SHAPE),
        cluster_batch(replace(table, version=9), seed=1, step=5, shape=SHAPE),
        cluster_batch(replace(table, task="other"), seed=1, step=5, shape=SHAPE),
    ]
    contents = [str(fields(batch)) for batch in batches]
    assert len(set(contents)) == len(contents)


def test_every_cluster_is_a_seed_once_a_pass(table: ClusterTable) -> None:
    clusters = table.num_clusters
    drawn = seeds(table, range(2 * clusters), "cluster")  # two seeds a step: four passes
    passes = [drawn[start : start + clusters] for start in range(0, 4 * clusters, clusters)]
    assert all(sorted(one) == list(range(clusters)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4


@pytest.mark.parametrize("seed_by", ["cluster", "class"])
def test_a_new_table_goes_on_with_the_pass(table: ClusterTable, seed_by: str) -> None:
    steps = range(6)
    tables = [replace(table, version=100 * (step // 2)) for step in steps]
    found = [seeds(t, range(s, s + 1), seed_by) for t, s in zip(tables, steps, strict=True)]
    assert sum(found, []) == seeds(table, steps, seed_by)


def test_seeding_by_class_takes_classes_evenly_and_their_clusters_in_turn(
    table: ClusterTable,
) -> None:
    passes, classes = 6, table.num_classes
    drawn = seeds(table, range(passes * classes // 2), "class")
    per_class = Counter(table.class_of[drawn].tolist())
    assert set(per_class.values()) == {passes}
    per_cluster = Counter(drawn)
    assert [per_cluster[j] for j in range(table.num_clusters)] == [2, 2, 2, 3, 3, 6, 3, 3, 6]


def test_every_image_is_drawn_in_the_end(table: ClusterTable) -> None:
    seen: set[int] = set()
    for step in range(200):
        for part in cluster_batch(table, seed=0, step=step, shape=SHAPE):
            seen.update(part.sample_ids.tolist())
    assert seen == set(table.member_ids.tolist())


@pytest.mark.parametrize("numbers", [[3], [1, 3], [2, 0], []])
def test_each_neighbourhood_can_be_drawn_alone(table: ClusterTable, numbers: list[int]) -> None:
    shape = replace(SHAPE, micro_batches=4)
    whole = cluster_batch(table, seed=0, step=2, shape=shape)
    some = cluster_batch(table, seed=0, step=2, shape=shape, numbers=numbers)
    assert fields(some) == fields([whole[g] for g in numbers])


# -- ranks -----------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_shares_are_a_partition(table: ClusterTable, world_size: int) -> None:
    shape = replace(SHAPE, micro_batches=4)
    whole = cluster_batch(table, seed=0, step=2, shape=shape)
    shares = [micro_batches_of_rank(whole, rank, world_size) for rank in range(world_size)]
    assert [len(share) for share in shares] == [4 // world_size] * world_size
    joined = [part for turn in zip(*shares, strict=True) for part in turn]
    assert fields(joined) == fields(whole)


# -- size ------------------------------------------------------------------------------


def test_a_step_is_quick_on_a_large_table() -> None:
    clusters, members = 100_000, 10
    numbers = np.arange(clusters)
    small = make_table([[1]])
    table = replace(
        small,
        centroids=np.broadcast_to(small.centroids, (clusters, small.dim)),
        class_of=numbers // 10,
        member_ptr=np.arange(clusters + 1) * members,
        member_ids=np.arange(clusters * members),
        neighbours=(numbers[:, None] + np.arange(10, 42)) % clusters,
        siblings=np.full((clusters, 8), -1),
    )
    shape = BatchShape(micro_batches=2, micro_batch_size=100, clusters=20, siblings=3)

    def draw(step: int) -> None:
        for seed_by in ("cluster", "class"):
            cluster_batch(table, seed=0, step=step, shape=shape, seed_by=seed_by)

    draw(0)  # permutes and sorts once
    started = time.process_time()
    for step in range(1, 11):
        draw(step)
    # About 2 ms for the two; a single sort of the million samples would take more.
    assert (time.process_time() - started) / 10 < 0.06
