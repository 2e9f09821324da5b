"""Any number of ranks shares the same batches of a step."""

from itertools import chain

import numpy as np
import pytest
import torch

from data_shards.errors import ConfigError
from tests.helpers.sized_tables import make_table
from trainer.config.builder import build_config
from trainer.config.sections import TaskConfig
from trainer.runtime.world import World
from trainer.sampling import cluster_sampler, label_sampler
from trainer.sampling.batch_plan import BatchPlan

SHAPE = TaskConfig(name="shape", label="shape")
PARITY = TaskConfig(name="parity", label="parity")
SAMPLER = {
    "micro_batches": 4,
    "micro_batch_size": 6,
    "images_per_cluster": 2,
    "images_per_class": 2,
    "siblings": 1,
}
TABLES = {
    "shape": make_table([[5, 4], [3], [2, 2], [1]]),
    "parity": make_table([[6, 5], [4, 2]]),
}
TABLE_IDS = {task: set(table.member_ids.tolist()) for task, table in TABLES.items()}


def plans(index, num_ranks, *, tasks=(SHAPE,), tables=TABLES, sampler=SAMPLER, **sections):
    """The plan of each of so many ranks."""
    config = build_config({"sampler": sampler, **sections})
    ranks = [World(rank, num_ranks, rank, torch.device("cpu")) for rank in range(num_ranks)]
    return [BatchPlan(config, tasks, index, world, tables) for world in ranks]


def whole_step(rank_plans, step):
    """The step's micro-batches in their order: rank r has every world-size-th."""
    shares = [plan(step) for plan in rank_plans]
    return list(chain.from_iterable(zip(*shares, strict=True)))


def as_numbers(batch):
    return [(b.samples.sample_ids.tolist(), b.samples.classes.tolist(), b.seed) for b in batch]


SAMPLINGS = [
    {"loss": {"name": "clmle"}},
    {"loss": {"name": "softmax"}},
    *(
        {"loss": {"name": "softmax"}, "sampler": {**SAMPLER, "sampling": sampling}}
        for sampling in ("class_balanced", "under", "progressive", "class_groups", "cluster")
    ),
]


@pytest.mark.parametrize("sections", SAMPLINGS)
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_share_the_batch_that_one_rank_would_have(train_index, sections, num_ranks):
    (alone,) = plans(train_index, 1, **sections)
    together = plans(train_index, num_ranks, **sections)
    for step in range(5):
        expected = as_numbers(alone(step))
        assert len(expected) == 4
        assert all(len(ids) == 6 for ids, _, _ in expected)
        assert as_numbers(whole_step(together, step)) == expected


@pytest.mark.parametrize("sections", SAMPLINGS[:2])
def test_a_rank_draws_only_its_own_micro_batches(train_index, sections, monkeypatch):
    drawn = []
    rows, members = label_sampler.permuted, cluster_sampler.draw_members

    def permuted(positions, size, stream):
        drawn.append(len(positions))
        return rows(positions, size, stream)

    def draw_members(table, clusters, *, shape, rng):
        drawn.append(shape.micro_batch_size)
        return members(table, clusters, shape=shape, rng=rng)

    monkeypatch.setattr(label_sampler, "permuted", permuted)
    monkeypatch.setattr(cluster_sampler, "draw_members", draw_members)
    plans(train_index, 4, **sections)[1](3)
    assert drawn == [6]


def test_a_step_is_the_same_whenever_it_is_asked_for(train_index):
    (one,) = plans(train_index, 1)
    (other,) = plans(train_index, 1)
    later = [as_numbers(one(step)) for step in (3, 0, 7)]
    assert later == [as_numbers(other(step)) for step in (3, 0, 7)]
    assert later[0] != later[1]


def test_the_seed_of_the_run_changes_batches_and_augmentation(train_index):
    (one,) = plans(train_index, 1)
    (other,) = plans(train_index, 1, run={"seed": 1})
    assert [ids for ids, _, _ in as_numbers(one(0))] != [ids for ids, _, _ in as_numbers(other(0))]
    assert [b.seed for b in one(2)] == [(0, 2, 0), (0, 2, 1), (0, 2, 2), (0, 2, 3)]
    assert [b.seed for b in other(2)][0] == (1, 2, 0)


def test_tasks_take_turns(train_index):
    (plan,) = plans(train_index, 1, tasks=(SHAPE, PARITY))
    (shape_alone,) = plans(train_index, 1, tasks=(SHAPE,))
    (parity_alone,) = plans(train_index, 1, tasks=(PARITY,))
    for step in range(4):
        owner = (shape_alone, parity_alone)[step % 2]
        got, expected = as_numbers(plan(step)), as_numbers(owner(step // 2))
        assert [(ids, classes) for ids, classes, _ in got] == [
            (ids, classes) for ids, classes, _ in expected
        ]
        assert [seed for _, _, seed in got] == [(0, step, g) for g in range(4)]
        assert (
            set(np.concatenate([b.samples.sample_ids for b in plan(step)]))
            <= TABLE_IDS[("shape", "parity")[step % 2]]
        )


def test_without_tables_labels_and_ids_are_those_of_the_shards(train_index):
    (plan,) = plans(train_index, 1, tables={}, loss={"name": "softmax"})
    label_of = dict(
        zip(train_index.ids.tolist(), train_index.labels("shape").tolist(), strict=True)
    )
    for batch in plan(0):
        drawn = batch.samples
        assert drawn.classes.tolist() == [label_of[i] for i in drawn.sample_ids.tolist()]


def test_micro_batches_that_do_not_divide_are_refused(train_index):
    plan = plans(train_index, 3)[0]
    with pytest.raises(ConfigError, match="4 does not divide among 3 ranks"):
        plan(0)


def test_tasks_that_take_turns_still_visit_every_cluster(train_index):
    """A task has every second step only; counting all steps, it would skip half of its seeds."""
    sampler = {**SAMPLER, "micro_batches": 1, "micro_batch_size": 4, "siblings": 0}
    (plan,) = plans(train_index, 1, tasks=(SHAPE, PARITY), sampler=sampler)
    num_clusters = TABLES["parity"].num_clusters
    turns = [step for step in range(2 * num_clusters) if step % 2]
    seeds = {int(plan(step)[0].samples.clusters[0]) for step in turns}
    assert seeds == set(range(num_clusters))
