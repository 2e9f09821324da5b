"""Evaluation reads the split that it is told to, and says the same on any number of ranks."""

import dataclasses
import os

import pytest
import torch
import torch.distributed as dist

from data_shards.atomic import read_json
from data_shards.shards.manifest import Manifest
from tests.helpers.cluster_tables import tiny_table
from tests.helpers.embedding_shards import labelled_rows, write_shards
from tests.helpers.ranks import run_ranks
from tests.helpers.tiny_data import TRAIN_COUNTS
from trainer.config.sections import EvaluationConfig, TaskConfig
from trainer.evaluation.ranks import RankEvaluator
from trainer.models import build_network
from trainer.run.folder import RunFolder
from trainer.runtime.world import World

ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
TASKS = (TaskConfig(name="shape", label="shape"),)


def test_the_validation_split_is_read_where_that_is_asked_for(tmp_path, tiny_data, tiny_network):
    splits = {"train": tiny_data.split("train"), "validation": tiny_data.split("test")}
    manifest = dataclasses.replace(tiny_data, splits=splits)  # a test split is not even there
    run, config = RunFolder(tmp_path), EvaluationConfig(split="validation")
    evaluator = RankEvaluator(run, ALONE, manifest, TASKS, config)
    summary, _ = evaluator.run(tiny_network, 5, {}, None)
    assert (summary["split"], summary["num_images"]) == ("validation", 21)
    assert read_json(run.evaluation / "step_000005-validation.json") == summary


def test_an_evaluation_leaves_no_file_open_and_can_be_repeated(tmp_path, tiny_data, tiny_network):
    evaluator = RankEvaluator(RunFolder(tmp_path), ALONE, tiny_data, TASKS, EvaluationConfig())
    before = len(os.listdir("/proc/self/fd"))
    first = evaluator.run(tiny_network, 5, {}, None)
    assert len(os.listdir("/proc/self/fd")) == before
    assert evaluator.run(tiny_network, 5, {}, None) == first


def test_without_classifier_and_tables_there_is_nothing_to_say(tmp_path, tiny_data):
    shape = {"channels": 1, "input_size": 8, "embedding_dim": 8, "num_classes": {"shape": 4}}
    network = build_network("tiny", **shape, classifier_input=None).eval()
    run = RunFolder(tmp_path)
    evaluator = RankEvaluator(run, ALONE, tiny_data, TASKS, EvaluationConfig())
    assert evaluator.run(network, 5, {}, None) == ({}, {})
    assert not run.evaluation.exists()


def summary_on(world, folder, shards):
    """The evaluation of step 5 with every read-out that looks at the training images."""
    torch.manual_seed(0)
    shape = {"channels": 1, "input_size": 8, "embedding_dim": 8, "num_classes": {"shape": 4}}
    network = build_network("tiny", **shape).eval()
    table = tiny_table(task="shape", clusters_per_class=(2, 1, 3, 1), dim=8)
    stats = {"snapshot_checksum": "weights and data"}  # the origin that `write_shards` states
    tables = {"shape": dataclasses.replace(table, stats=stats)}
    config = EvaluationConfig(batch_size=4, knn=2, knn_balanced=30, head_adjustment=1.0)
    evaluator = RankEvaluator(RunFolder(folder), world, Manifest.load(shards), TASKS, config)
    return evaluator.run(network, 5, tables, 5)[0]


def on_ranks(rank, num_ranks, folder, shards):
    dist.init_process_group("gloo")
    summary = summary_on(World.from_environment(), folder, shards)
    dist.destroy_process_group()
    return summary


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_any_number_of_ranks_says_what_one_says(tmp_path, tiny_data, num_ranks):
    rows = labelled_rows(TRAIN_COUNTS, dim=8)
    write_shards(RunFolder(tmp_path).embeddings / "step_000005" / "shape", *rows)
    expected = summary_on(ALONE, tmp_path, tiny_data.folder)
    assert {"knn", "knn_balanced", "head_adjusted"} <= set(expected["balanced_accuracy"])
    assert run_ranks(on_ranks, num_ranks, tmp_path, tiny_data.folder, timeout=60) == (
        [expected] * num_ranks
    )
