"""From records to what is read: rows, tables, JSON and CSV."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from benchmarks.accuracy.report.significance import Floats
from benchmarks.accuracy.run.jobs import Record
from benchmarks.accuracy.run.recipes import Recipe
from cluster_jobs.comparison import aligned
from data_shards.errors import DataError
from trainer.evaluation.shot_groups import SHOT_GROUPS


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training: a method on a data set with a seed, by the method's read-out."""

    data: str
    method: str
    seed: int
    readout: str
    balanced_accuracy: float | None
    """On the images of the comparison's split; None when the loss became infinite."""
    many: float | None
    """Mean recall of the classes with more than 100 training images; None when there are none."""
    medium: float | None
    """Those with 20 to 100."""
    few: float | None
    """Those with fewer than 20."""
    images_seen: int
    precision: str
    seconds: float


def make_row(record: Record, recipe: Recipe) -> Row:
    """Read a record by its recipe.

    Args:
        record: of the split that is compared.
        recipe: whose read-out counts.

    Raises:
        DataError: the training has no such read-out.
    """
    values = record.balanced_accuracy
    if values and recipe.readout not in values:
        raise DataError(
            f"{record.data}, {record.method}: the recipe wants read-out {recipe.readout}, the "
            f"training has {', '.join(values)}; search again (--search)"
        )
    nothing: dict[str, float | None] = dict.fromkeys(SHOT_GROUPS)
    return Row(
        data=record.data,
        method=record.method,
        seed=record.seed,
        readout=recipe.readout,
        balanced_accuracy=values.get(recipe.readout),
        images_seen=record.images_seen,
        precision=record.precision,
        seconds=record.seconds,
        **record.recall_by_size.get(recipe.readout, nothing),
    )


def precision_text(rows: Sequence[Row]) -> str:
    """Which trainings had the rarer precision, a line; empty where all had the same."""
    kinds = Counter(row.precision for row in rows)
    if len(kinds) <= 1:
        return ""
    (common, _), (rare, number) = kinds.most_common()
    per_method = Counter(row.method for row in rows if row.precision == rare)
    named = ", ".join(f"{method} {count}" for method, count in per_method.items())
    return (
        f"\n{number} of {len(rows)} trainings were computed in {rare} ({named}), the others in "
        f"{common}, on other machines.\n"
    )


def score_table(rows: Iterable[Row], methods: Sequence[str]) -> tuple[Floats, list[str]]:
    """Scores by data set and seed, for tests of significance.

    Args:
        rows: of all trainings.
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


def as_csv(rows: Sequence[Row]) -> str:
    """One line a training, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation of the sample; None for one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), deviation


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of those that are there; None of none."""
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def significance_text(found: Mapping[str, Any] | None, rows: Sequence[Row]) -> str:
    """The tests in words: all methods together, then pair by pair.

    Args:
        found: what `significance.summarise` says.
        rows: of all trainings, also in blocks that lack a method.
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
        found: what `significance.summarise` says.
    """
    cells = [["better > worse", "blocks", "points", "Wilcoxon p", "Holm p"]]
    for pair in found["pairs"]:
        numbers = [f"{100 * pair['difference']:.2f}", f"{pair['p']:.3g}", f"{pair['p_holm']:.3g}"]
        cells.append([f"{pair['better']} > {pair['worse']}", str(pair["blocks"]), *numbers])
    return cells
