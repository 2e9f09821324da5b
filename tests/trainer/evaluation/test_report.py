"""What an evaluation says is readable by people and machines."""

import json

import numpy as np
import pytest

from data_shards.atomic import read_json
from tests.helpers.tiny_data import PARITY, SHAPE, TEST_COUNTS, TRAIN_COUNTS
from trainer.config.sections import TaskConfig
from trainer.evaluation.counts import ClassCounts
from trainer.evaluation.report import as_metrics, class_lists, summarise, write_evaluation
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


CLASSES = {
    "identity": {"names": ["a", "b", "c"], "training_images": [9, 5, 1], "images": [4, 0, 2]}
}


def summary_of(counts, **others):
    return summarise(counts, step=40, table_version=30, classes=CLASSES, **others)


def test_a_summary_has_every_number_by_read_out():
    assert summary_of(ONE_TASK) == {
        "step": 40,
        "table_version": 30,
        "split": "test",
        "num_images": 6,
        "balanced_accuracy": {"ncm": 0.625, "head": 0.5},
        "accuracy": {"ncm": pytest.approx(4 / 6), "head": pytest.approx(4 / 6)},
        # A class without a test image has no recall.
        "per_class_recall": {"ncm": [0.75, None, 0.5], "head": [1.0, None, 0.0]},
        "classes": CLASSES,
    }


def test_each_task_has_the_names_of_its_classes_in_the_order_of_the_recalls(tiny_data):
    tasks = [TaskConfig(name=name, label=label) for name, label in (("a", SHAPE), ("b", PARITY))]
    found = class_lists(tasks, tiny_data, "test")
    assert found == {
        "a": {
            "names": ["shape 0", "shape 1", "shape 2", "shape 3"],
            "training_images": list(TRAIN_COUNTS),
            "images": list(TEST_COUNTS),
        },
        "b": {"names": ["even", "odd"], "training_images": [28, 17], "images": [12, 9]},
    }


def test_a_summary_names_another_split():
    assert summary_of(ONE_TASK, split="validation")["split"] == "validation"


def test_with_several_tasks_read_outs_are_named_by_task():
    summary = summarise(TWO_TASKS, step=1, table_version=None, classes={})
    assert summary["balanced_accuracy"] == {"smiling/ncm": 0.75, "age/ncm": 1.0}
    assert summary["per_class_recall"]["age/ncm"] == [None, None, 1.0]
    assert summary["table_version"] is None


def test_an_evaluation_is_a_file_of_its_step(tmp_path):
    summary = summary_of(ONE_TASK)
    path = write_evaluation(RunFolder(tmp_path / "run"), summary)
    assert path == tmp_path / "run" / "evaluation" / "step_000040.json"
    assert read_json(path) == summary
    # Strictly: no NaN, which JSON does not have.
    json.loads(path.read_text(), parse_constant=pytest.fail)


def test_another_split_has_a_file_and_metrics_of_its_own(tmp_path):
    run = RunFolder(tmp_path)
    write_evaluation(run, summary_of(ONE_TASK))
    held_back = summary_of(ONE_TASK, split="validation")
    assert write_evaluation(run, held_back).name == "step_000040-validation.json"
    assert read_json(run.evaluation / "step_000040.json")["split"] == "test"
    assert "evaluation/validation/accuracy/ncm" in as_metrics(held_back)


def test_metrics_are_the_scalars():
    assert as_metrics(summary_of(ONE_TASK)) == {
        "evaluation/balanced_accuracy/ncm": 0.625,
        "evaluation/balanced_accuracy/head": 0.5,
        "evaluation/accuracy/ncm": pytest.approx(4 / 6),
        "evaluation/accuracy/head": pytest.approx(4 / 6),
    }
