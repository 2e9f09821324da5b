"""Results as pictures; needs matplotlib (the `bench` extra)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.run.jobs import Split
from benchmarks.accuracy.run.methods import METHODS
from benchmarks.accuracy.run.rows import Row, mean_and_deviation, mean_of
from data_shards.atomic import atomic_file

SUFFIXES = ("png", "svg")
_COLOURS = {"classic": "0.65", "cluster": "tab:blue", "ours": "tab:red", "ablation": "tab:orange"}
_GROUPS = {
    "many": ("many: > 100 images", "0.65"),
    "medium": ("medium: 20 to 100", "tab:blue"),
    "few": ("few: < 20", "tab:red"),
}


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def plot_all(rows: Sequence[Row], stem: Path, split: Split) -> list[Path]:
    """Draw both pictures, each as PNG and SVG.

    Args:
        rows: of all training runs.
        stem: path without suffix; the pictures get "-accuracy.png" and so on.
        split: whose images were measured.

    Returns:
        The files written.
    """
    drawn = {"accuracy": _accuracy(rows, split), "recall": _recall(rows)}
    written = []
    for name, figure in drawn.items():
        for suffix in SUFFIXES:
            path = stem.with_name(f"{stem.name}-{name}.{suffix}")
            with atomic_file(path) as temporary:
                figure.savefig(temporary, format=suffix, dpi=120)
            written.append(path)
    return written


def _panels(rows: Sequence[Row], height: float) -> tuple[Any, list[tuple[str, Any]]]:
    """A figure with one panel per data set, two side by side."""
    from matplotlib.figure import Figure

    datasets = list(dict.fromkeys(row.data for row in rows))
    columns = min(2, len(datasets))
    lines = -(-len(datasets) // columns)
    figure = Figure(figsize=(7 * columns, height * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel().tolist()
    for axis in axes[len(datasets) :]:
        axis.remove()
    return figure, list(zip(datasets, axes, strict=False))


def _accuracy(rows: Sequence[Row], split: Split) -> Any:
    """Bars: balanced accuracy of each method, mean and deviation over the seeds."""
    methods = list(dict.fromkeys(row.method for row in rows))
    figure, panels = _panels(rows, 1 + 0.25 * len(methods))
    for data, axis in panels:
        for place, method in enumerate(methods):
            values = [
                row.balanced_accuracy
                for row in rows
                if (row.data, row.method) == (data, method) and row.balanced_accuracy is not None
            ]
            if values:
                mean, deviation = mean_and_deviation(values)
                colour = _COLOURS[METHODS[method].group]
                axis.barh(place, mean, xerr=deviation, color=colour, capsize=2)
                axis.annotate(f"{mean:.3f}", (0, place), va="center", xytext=(3, 0),
                              textcoords="offset points", fontsize=8)  # fmt: skip
        axis.set_yticks(range(len(methods)), methods)
        axis.invert_yaxis()
        axis.set_title(data)
    figure.supxlabel(f"balanced accuracy on the {split} images (mean, sd over seeds)")
    return figure


def _recall(rows: Sequence[Row]) -> Any:
    """Dots: recall of classes with many, some and few training images; where sizes differ."""
    sized = {r.data for r in rows if sum(getattr(r, group) is not None for group in _GROUPS) > 1}
    rows = [row for row in rows if row.data in sized] or rows
    methods = list(dict.fromkeys(row.method for row in rows))
    figure, panels = _panels(rows, 1 + 0.25 * len(methods))
    for data, axis in panels:
        for group, (label, colour) in _GROUPS.items():
            means = [
                mean_of(getattr(r, group) for r in rows if (r.data, r.method) == (data, method))
                for method in methods
            ]
            recalls = np.array(means, dtype=np.float64)  # NaN, which is not drawn, for None
            axis.plot(recalls, range(len(methods)), "o", color=colour, label=label)
        axis.set_yticks(range(len(methods)), methods)
        axis.invert_yaxis()
        axis.grid(alpha=0.4)
        axis.set_title(data)
    handles, labels = panels[0][1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8)
    figure.supxlabel("recall, mean over classes and seeds")
    return figure
