from __future__ import annotations

import dataclasses
from typing import Any

from cluster_jobs.comparison import comparison_table, evaluation_table
from data_shards.shards.manifest import Manifest, SplitInfo
from trainer.config.builder import build_config
from trainer.losses.registry import LOSSES


def with_class_sizes(manifest: Manifest, columns: dict[str, list[int]]) -> Manifest:
    """The manifest of shards with these label columns, and these sizes of their classes."""
    histograms = {column: tuple(sizes) for column, sizes in columns.items()}
    train = manifest.split("train")
    return dataclasses.replace(
        manifest,
        label_columns=tuple(columns),
        label_names={c: tuple(f"{c}{i}" for i in range(len(s))) for c, s in columns.items()},
        splits={"train": SplitInfo(train.num_samples, histograms, train.shards)},
    )


def report(loss: str, **recall: list[float | None]) -> dict[str, Any]:
    return {
        "loss": loss,
        "readout": LOSSES[loss].readout,
        "balanced_accuracy": {name.replace("__", "/"): 0.5 for name in recall},
        "per_class_recall": {name.replace("__", "/"): values for name, values in recall.items()},
        "images_seen": 12345,
        "train_seconds": 6.78,
    }


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line]


def test_each_method_is_shown_by_the_readout_that_it_is_meant_for(manifest: Manifest) -> None:
    reports = {
        "clmle": report("clmle", knc_margin=[1.0, 0.5, 0.25], head=[0.0, 0.0, 0.0]),
        "plain": report("softmax", knc_margin=[0.0, 0.0, 0.0], head=[0.75, None, 1.0]),
    }
    table = rows(comparison_table(reports, manifest, build_config({})))
    assert ["clmle", "0.5000", "0.5000", "12,345", "6.8"] in table
    assert ["recall", "training", "images", "clmle", "(knc_margin)", "plain", "(head)"] in table
    assert ["a", "40", "1.0000", "0.7500"] in table
    assert ["b", "15", "0.5000", "-"] in table


def test_many_classes_are_grouped_by_their_training_images(manifest: Manifest) -> None:
    many = with_class_sizes(manifest, {"who": [101, 100, 20, 19] * 6})
    recall = [0.9, 0.6, 0.4, None] * 5 + [0.9, 0.6, 0.4, 0.1]
    table = comparison_table({"clmle": report("clmle", knc_margin=recall)}, many, build_config({}))
    assert "many (> 100 images): 6 classes              606" in table
    groups = {line[0]: line[-1] for line in rows(table)}
    assert groups["many"] == "0.9000"
    assert groups["medium"] == "0.5000"
    assert groups["few"] == "0.1000"


def test_several_tasks_are_averaged(manifest: Manifest) -> None:
    two = with_class_sizes(manifest, {"smile": [3, 4], "hat": [5, 2]})
    tasks = [{"name": name, "label": name} for name in ("smile", "hat")]
    made = report("clmle", smile__knc_margin=[1.0, 1.0], hat__knc_margin=[0.0, 0.0])
    made["balanced_accuracy"] = {"smile/knc_margin": 1.0, "hat/knc_margin": 0.5}
    table = rows(comparison_table({"clmle": made}, two, build_config({"tasks": tasks})))
    assert ["clmle", "0.7500", "12,345", "6.8"] in table


def test_a_run_without_a_test_split_has_no_numbers(manifest: Manifest) -> None:
    made = report("clmle")
    table = rows(comparison_table({"clmle": made}, manifest, build_config({})))
    assert table[-1] == ["clmle", "12,345", "6.8"]


def test_an_evaluation_shows_every_readout(manifest: Manifest) -> None:
    summary = {
        "step": 30,
        "split": "test",
        "num_images": 1700,
        "balanced_accuracy": {"head": 0.5},
        "accuracy": {"head": 0.6},
        "per_class_recall": {"head": [1.0, 0.0, None]},
    }
    table = rows(evaluation_table(summary, manifest, build_config({})))
    assert table[0] == ["step", "30,", "1,700", "test", "images", "head"]
    assert ["balanced", "accuracy", "0.5000"] in table
    assert ["accuracy", "0.6000"] in table
    assert ["c", "6", "-"] in table
