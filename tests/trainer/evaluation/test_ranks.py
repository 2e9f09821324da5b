"""Evaluation reads the split that it is told to, and no other."""

import dataclasses

import torch

from data_shards.atomic import read_json
from trainer.evaluation.ranks import RankEvaluator
from trainer.run_folder import RunFolder
from trainer.sections import EvaluationConfig, TaskConfig
from trainer.world import World

ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
TASKS = (TaskConfig(name="shape", label="shape"),)


def test_the_validation_split_is_read_where_that_is_asked_for(tmp_path, tiny_data, tiny_network):
    splits = {"train": tiny_data.split("train"), "validation": tiny_data.split("test")}
    manifest = dataclasses.replace(tiny_data, splits=splits)  # a test split is not even there
    run, config = RunFolder(tmp_path), EvaluationConfig(split="validation")
    evaluator = RankEvaluator(run, ALONE, manifest, TASKS, config)
    summary, _ = evaluator.run(tiny_network, 5, {}, None)
    assert (summary["split"], summary["test_images"]) == ("validation", 21)
    assert read_json(run.evaluation / "step_000005.json") == summary
