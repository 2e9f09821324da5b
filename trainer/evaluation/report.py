"""The results of an evaluation, as JSON and as metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_shards.atomic import write_json
from data_shards.shards.manifest import Manifest
from trainer.config.sections import TaskConfig
from trainer.evaluation.counts import ClassCounts
from trainer.run.folder import RunFolder, step_name

Counts = Mapping[tuple[str, str], ClassCounts]


def class_lists(
    tasks: Sequence[TaskConfig], manifest: Manifest, split: str
) -> dict[str, dict[str, list[Any]]]:
    """Task -> `names`, `training_images` and `images` (of a split) of its classes, in order."""
    return {
        task.name: {
            "names": list(manifest.label_names[task.label]),
            "training_images": manifest.class_counts("train", task.label).tolist(),
            "images": manifest.class_counts(split, task.label).tolist(),
        }
        for task in tasks
    }


def summarise(
    counts: Counts,
    *,
    step: int,
    table_version: int | None,
    classes: Mapping[str, Mapping[str, list[Any]]],
    split: str = "test",
) -> dict[str, Any]:
    """Summarise one evaluation.

    Args:
        counts: (task, read-out) -> counts over the whole split.
        step: optimiser steps of the evaluated weights.
        table_version: of the cluster tables.
        classes: of the tasks and the split (`class_lists`).
        split: that was classified.

    Returns:
        `balanced_accuracy`, `accuracy`, `per_class_recall` by read-out (named "task/read-out" if
        there are several tasks), the `classes` in the order of the recalls, the `split`, how many
        images it has (`num_images`), and the `step` and `table_version` that classified them.
    """
    several = len({task for task, _ in counts}) > 1
    named = {f"{t}/{r}" if several else r: c for (t, r), c in counts.items()}
    first = next(iter(named.values()))
    return {
        "step": step,
        "table_version": table_version,
        "split": split,
        "num_images": int(first.total.sum()),
        "balanced_accuracy": {name: c.balanced_accuracy for name, c in named.items()},
        "accuracy": {name: c.accuracy for name, c in named.items()},
        "per_class_recall": {
            # A class without images has no recall; JSON has no NaN.
            name: [None if r != r else float(r) for r in c.per_class_recall]
            for name, c in named.items()
        },
        "classes": dict(classes),
    }


def evaluation_path(run: RunFolder, step: int, split: str) -> Path:
    """`RUN/evaluation/step_....json`, or `step_...-SPLIT.json` if the split is not test."""
    of_split = "" if split == "test" else f"-{split}"
    return run.evaluation / f"{step_name(step)}{of_split}.json"


def write_evaluation(run: RunFolder, summary: Mapping[str, Any]) -> Path:
    """Write a summary to `evaluation_path`."""
    path = evaluation_path(run, summary["step"], summary["split"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(summary))
    return path


def as_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """Name -> scalar, for TensorBoard; the names contain the split if it is not test."""
    of_split = "" if summary["split"] == "test" else f"{summary['split']}/"
    return {
        f"evaluation/{of_split}{kind}/{name}": value
        for kind in ("balanced_accuracy", "accuracy")
        for name, value in summary[kind].items()
    }
