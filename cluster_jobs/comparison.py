"""Reports as text: one evaluation, or several methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_shards.shards.manifest import Manifest
from trainer.config.readout_names import READOUT_ORDER
from trainer.config.run_config import RunConfig
from trainer.config.tasks import resolve_tasks
from trainer.evaluation.shot_groups import FEW, MANY, mean_recall, shot_groups

_MOST_CLASSES_SHOWN = 20
_GROUP_NAMES = {
    "many": f"many (> {MANY} images)",
    "medium": f"medium ({FEW} to {MANY})",
    "few": f"few (< {FEW})",
}

Report = Mapping[str, Any]


def comparison_table(reports: Mapping[str, Report], manifest: Manifest, config: RunConfig) -> str:
    """Methods side by side: balanced accuracy by read-out, cost, then recall by class.

    Read-outs that none of them has are left out.

    Args:
        reports: method -> its `report.json`, all of the same data and tasks.
        manifest: the shards.
        config: any of the methods' configurations, for the tasks.
    """
    had = {name.split("/")[-1] for made in reports.values() for name in made["balanced_accuracy"]}
    shown = [*(n for n in READOUT_ORDER if n in had), *sorted(had - set(READOUT_ORDER))]
    rows = [["balanced accuracy", *shown, "images seen", "seconds"]]
    for method, report in reports.items():
        values = [_number(_over_tasks(report["balanced_accuracy"], name)) for name in shown]
        cost = [f"{report['images_seen']:,}", f"{report['train_seconds']:.1f}"]
        rows.append([method, *values, *cost])
    columns = {}
    for method, report in reports.items():
        readout = report["readout"]  # the one that the method is meant for
        columns[f"{method} ({readout})"] = report["per_class_recall"].get(readout)
    return aligned(rows) + _recall_table(columns, manifest, config)


def evaluation_table(summary: Report, manifest: Manifest, config: RunConfig) -> str:
    """One evaluation: balanced accuracy and recall by class, one column per read-out."""
    names = list(summary["balanced_accuracy"])
    rows = [
        [f"step {summary['step']}, {summary['num_images']:,} {summary['split']} images", *names]
    ]
    for kind in ("balanced_accuracy", "accuracy"):
        values = [_number(summary[kind][name]) for name in names]
        rows.append([kind.replace("_", " "), *values])
    return aligned(rows) + _recall_table(summary["per_class_recall"], manifest, config)


def _over_tasks(values: Mapping[str, float], readout: str) -> float | None:
    """A read-out's value; the mean over the tasks where there are several."""
    of_tasks = [value for name, value in values.items() if name.split("/")[-1] == readout]
    return float(np.mean(of_tasks)) if of_tasks else None


def _recall_table(
    columns: Mapping[str, Sequence[float | None] | None], manifest: Manifest, config: RunConfig
) -> str:
    """Recall by class, or by groups of classes if there are many; one task only."""
    tasks = resolve_tasks(config, manifest)
    if len(tasks) > 1 or not all(columns.values()):
        return ""
    label = tasks[0].label
    rows = [["recall", "training images", *columns]]
    for name, size, classes in _groups(manifest, label):
        means = [mean_recall(recall or (), classes) for recall in columns.values()]
        rows.append([name, size, *map(_number, means)])
    return "\n" + aligned(rows)


def _groups(manifest: Manifest, label: str) -> list[tuple[str, str, np.ndarray]]:
    """(name, number of training images in words, its classes) of each row."""
    sizes = manifest.class_counts("train", label)
    if len(sizes) <= _MOST_CLASSES_SHOWN:
        names = manifest.label_names[label]
        return [(names[c], f"{sizes[c]:,}", np.array([c])) for c in range(len(sizes))]
    return [
        (
            f"{_GROUP_NAMES[group]}: {chosen.sum():,} classes",
            f"{sizes[chosen].sum():,}",
            np.flatnonzero(chosen),
        )
        for group, chosen in shot_groups(sizes).items()
        if chosen.any()
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text: columns of the least width, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([f"{first:<{widths[0]}}", *cells]).rstrip() + "\n")
    return "".join(lines)
