"""What an evaluation says is readable by people and machines."""

import json

import numpy as np
import pytest

from data_shards.atomic import read_json
from trainer.evaluation.counts import ClassCounts
from trainer.evaluation.report import as_metrics, summarise, write_evaluation
from trainer.run.folder import RunFolder


def counts(correct, total):
    return ClassCounts(np.array(correct), np.array(total))


ONE_TASK = {
    ("identity", "ncm"): counts([3, 0, 1], [4, 0, 2]),
    ("identity", "head"): counts([4, 0, 0], [4, 0, 2]),
}
TWO_TASKS = {
    ("smiling", "ncm"): counts([1, 1], [2, 1]),
    ("age", "ncm"): counts([0, 0, 3], [0, 0, 3]),
}


def test_a_summary_has_every_number_by_read_out():
    assert summarise(ONE_TASK, step=40, table_version=30) == {
        "step": 40,
        "table_version": 30,
        "split": "test",
        "num_images": 6,
        "balanced_accuracy": {"ncm": 0.625, "head": 0.5},
        "accuracy": {"ncm": pytest.approx(4 / 6), "head": pytest.approx(4 / 6)},
        # A class without a test image has no recall.
        "per_class_recall": {"ncm": [0.75, None, 0.5], "head": [1.0, None, 0.0]},
    }


def test_a_summary_names_another_split():
    assert summarise(ONE_TASK, step=1, table_version=None, split="validation")["split"] == (
        "validation"
    )


def test_with_several_tasks_read_outs_are_named_by_task():
    summary = summarise(TWO_TASKS, step=1, table_version=None)
    assert summary["balanced_accuracy"] == {"smiling/ncm": 0.75, "age/ncm": 1.0}
    assert summary["per_class_recall"]["age/ncm"] == [None, None, 1.0]
    assert summary["table_version"] is None


def test_an_evaluation_is_a_file_of_its_step(tmp_path):
    summary = summarise(ONE_TASK, step=40, table_version=30)
    path = write_evaluation(RunFolder(tmp_path / "run"), summary)
    assert path == tmp_path / "run" / "evaluation" / "step_000040.json"
    assert read_json(path) == summary
    # Strictly: no NaN, which JSON does not have.
    json.loads(path.read_text(), parse_constant=pytest.fail)


def test_another_split_has_a_file_and_metrics_of_its_own(tmp_path):
    run = RunFolder(tmp_path)
    write_evaluation(run, summarise(ONE_TASK, step=40, table_version=30))
    held_back = summarise(ONE_TASK, step=40, table_version=30, split="validation")
    assert write_evaluation(run, held_back).name == "step_000040-validation.json"
    assert read_json(run.evaluation / "step_000040.json")["split"] == "test"
    assert "evaluation/validation/accuracy/ncm" in as_metrics(held_back)


def test_metrics_are_the_scalars():
    assert as_metrics(summarise(ONE_TASK, step=40, table_version=30)) == {
        "evaluation/balanced_accuracy/ncm": 0.625,
        "evaluation/balanced_accuracy/head": 0.5,
        "evaluation/accuracy/ncm": pytest.approx(4 / 6),
        "evaluation/accuracy/head": pytest.approx(4 / 6),
    }
