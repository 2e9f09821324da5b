"""The significance tests on rows: the scores that go in, the table and text that come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.accuracy.report.significance import Floats
from benchmarks.accuracy.run.rows import Row
from cluster_jobs.comparison import aligned


def score_table(rows: Iterable[Row], methods: Sequence[str]) -> tuple[Floats, list[str]]:
    """Scores by data set and seed, for tests of significance.

    Args:
        rows: of all training runs.
        methods: columns that are wanted.

    Returns:
        (D, S, K) balanced accuracies and the names of the K methods that have any, NaN a method
        without a number there; D data sets and S seeds in ascending order.
    """
    scores = {
        (row.data, row.seed, row.method): row.balanced_accuracy
        for row in rows
        if row.balanced_accuracy is not None
    }
    datasets = sorted({data for data, _, _ in scores})
    seeds = sorted({seed for _, seed, _ in scores})
    found = {method for _, _, method in scores}
    present = [name for name in methods if name in found]
    table = [
        [[scores.get((data, seed, name), np.nan) for name in present] for seed in seeds]
        for data in datasets
    ]
    shape = len(datasets), len(seeds), len(present)
    return np.array(table, dtype=np.float64).reshape(shape), present


def significance_text(found: Mapping[str, Any] | None, rows: Sequence[Row]) -> str:
    """The tests in words: all methods together, then pair by pair.

    Args:
        found: what `significance.summarise` returns.
        rows: of all training runs, also in blocks that lack a method.
    """
    if found is None:
        return (
            "significance: not tested, it needs two methods and two (data set, seed) pairs that "
            "all methods have\n"
        )
    if found["blocks_are"] == "data sets":
        blocks = f"{len({row.data for row in rows})} data sets (means over common seeds)"
    else:
        blocks = f"{len({(row.data, row.seed) for row in rows})} (data set, seed) pairs"
    p = found["friedman_p"]
    return (
        f"significance over {found['blocks']} of {blocks}: "
        + ("" if p is None else f"Friedman p = {p:.2g}; ")
        + f"mean ranks that differ by more than {found['critical_difference']:.2f} differ at 0.05 "
        "(Nemenyi)\n" + aligned(pair_cells(found))
    )


def pair_cells(found: Mapping[str, Any]) -> list[list[str]]:
    """A header and a line a pair that was tested.

    Args:
        found: what `significance.summarise` returns.
    """
    cells = [["better > worse", "blocks", "points", "Wilcoxon p", "Holm p"]]
    for pair in found["pairs"]:
        numbers = [f"{100 * pair['difference']:.2f}", f"{pair['p']:.3g}", f"{pair['p_holm']:.3g}"]
        cells.append([f"{pair['better']} > {pair['worse']}", str(pair["blocks"]), *numbers])
    return cells
