"""Rows as the cells of tables: a line a method, a column a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks.accuracy.run.rows import Row, mean_and_deviation, mean_of
from trainer.evaluation.shot_groups import SHOT_GROUPS

Cells = list[list[str]]


def accuracy_cells(rows: Sequence[Row], methods: Sequence[str], *, best: str = "{}") -> Cells:
    """Mean +- deviation over the seeds.

    Args:
        rows: of all training runs.
        methods: in the order of the lines.
        best: how the highest mean of a data set is written. A method whose loss became infinite
            with any seed is not the best.
    """
    highest: dict[str, float] = {}
    for data, method in dict.fromkeys((row.data, row.method) for row in rows):
        values = [r.balanced_accuracy for r in rows if (r.data, r.method) == (data, method)]
        mean = mean_of(values)
        if mean is not None and None not in values:
            highest[data] = max(mean, highest.get(data, mean))

    def cell(mine: Sequence[Row]) -> str:
        values = [row.balanced_accuracy for row in mine if row.balanced_accuracy is not None]
        if not values:
            return "diverged" if mine else "-"
        mean, deviation = mean_and_deviation(values)
        text = f"{mean:.4f}" + ("" if deviation is None else f" +- {deviation:.4f}")
        if len(values) < len(mine):
            return f"{text} ({len(mine) - len(values)} of {len(mine)} diverged)"
        return best.format(text) if mean == highest[mine[0].data] else text

    return _pivot(rows, methods, cell)


def with_ranks(cells: Cells, ranks: Mapping[str, float]) -> Cells:
    """The same with a column of mean ranks, "-" for a method without."""
    header, *lines = cells
    ranked = [[m, f"{ranks[m]:.2f}" if m in ranks else "-", *others] for m, *others in lines]
    return [[header[0], "mean rank", *header[1:]], *ranked]


def by_rank(rows: Sequence[Row], ranks: Mapping[str, float]) -> list[str]:
    """The methods of the rows, the lowest mean rank first, those without as they come."""
    methods = dict.fromkeys(row.method for row in rows)
    return sorted(methods, key=lambda method: ranks.get(method, len(ranks) + 1))


def shot_cells(rows: Sequence[Row], methods: Sequence[str]) -> Cells:
    """Recall of classes with many / medium / few training images, means over the seeds."""
    return _pivot(rows, methods, _shots)


def chosen_cells(rows: Sequence[Row], methods: Sequence[str]) -> Cells:
    """The read-outs by which the rows were measured."""
    return _pivot(
        rows, methods, lambda mine: ", ".join(dict.fromkeys(row.readout for row in mine)) or "-"
    )


def seconds_cells(rows: Sequence[Row], methods: Sequence[str]) -> Cells:
    """Mean seconds; by precision where there are both: those are two machines' seconds."""
    mixed = len({row.precision for row in rows}) > 1
    return _pivot(rows, methods, partial(_seconds, mixed=mixed))


def seeds_text(rows: Sequence[Row]) -> str:
    """How many seeds a method has on a data set, in words."""
    cells: dict[tuple[str, str], int] = {}
    for row in rows:
        cells[row.data, row.method] = cells.get((row.data, row.method), 0) + 1
    numbers = sorted(set(cells.values()))
    if not numbers:
        return "no seeds"
    few, most = numbers[0], numbers[-1]
    return f"{few} seeds" if few == most else f"{few} to {most} seeds"


def _pivot(
    rows: Sequence[Row], methods: Sequence[str], cell: Callable[[Sequence[Row]], str]
) -> Cells:
    """`cell` of the training runs of each method on each data set, below a header."""
    datasets = list(dict.fromkeys(row.data for row in rows))
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.method, row.data), []).append(row)
    return [
        ["method", *datasets],
        *([method, *(cell(groups.get((method, d), ())) for d in datasets)] for method in methods),
    ]


def _shots(mine: Sequence[Row]) -> str:
    means = [mean_of(getattr(row, group) for row in mine) for group in SHOT_GROUPS]
    if not any(mean is not None for mean in means):
        return "-"
    return " / ".join("-" if mean is None else f"{mean:.3f}" for mean in means)


def _seconds(mine: Sequence[Row], *, mixed: bool) -> str:
    seconds: dict[str, list[float]] = {}
    for row in mine:
        if row.balanced_accuracy is not None:
            seconds.setdefault(row.precision, []).append(row.seconds)
    means = [
        f"{sum(values) / len(values):.0f}" + (f" ({kind})" if mixed else "")
        for kind, values in sorted(seconds.items())
    ]
    return ", ".join(means) or "-"


def precision_text(rows: Sequence[Row]) -> str:
    """Which training runs had the rarer precision, a line; empty where all had the same."""
    kinds = Counter(row.precision for row in rows)
    if len(kinds) <= 1:
        return ""
    (common, _), (rare, number) = kinds.most_common()
    per_method = Counter(row.method for row in rows if row.precision == rare)
    named = ", ".join(f"{method} {count}" for method, count in per_method.items())
    return (
        f"\n{number} of {len(rows)} training runs were computed in {rare} ({named}), the others in "
        f"{common}, on other machines.\n"
    )
