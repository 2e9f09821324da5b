"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.accuracy.ablation_table import ablation_cells
from benchmarks.accuracy.claims import claims_cells, missing_text, single_text
from benchmarks.accuracy.readouts import readout_cells
from benchmarks.accuracy.results import (
    Row,
    mean_and_deviation,
    mean_of,
    pair_cells,
    precision_text,
)

_SHOTS = ("many", "medium", "few")


def markdown_tables(results: Mapping[str, Any]) -> str:
    """All tables of one comparison, each under its heading.

    Args:
        results: as a comparison writes them.

    Raises:
        KeyError, TypeError: they are not.
    """
    rows = [Row(**row) for row in results["results"]]
    images = f"{results.get('split', 'test')} images"  # older results do not say: of the test split
    tested = results["significance"]
    ranks: dict[str, float] = tested["mean_ranks"] if tested else {}
    methods = sorted(dict.fromkeys(r.method for r in rows), key=lambda m: ranks.get(m, len(ranks)))
    more = [
        *_by_data_set(rows, methods),
        *_beside_each_other(results, images),
        _seconds_part(rows, methods, results["machine"]),
    ]
    return "\n".join([*_answers(results, rows, methods, images), _folded(more)])


def _answers(
    results: Mapping[str, Any], rows: Sequence[Row], methods: Sequence[str], images: str
) -> list[str]:
    """What most readers come for."""
    parts = [
        _part(
            f"Balanced accuracy on the {images}, mean ± standard deviation over {_seeds(rows)}; "
            "the best of a data set is bold",
            _accuracy(rows, methods),
        )
    ]
    if results["claims"]:
        parts.append(_claims(results["claims"], images))
    if results["ablations"]:
        parts.append(
            _part(
                f"What each choice is worth on the {images}", ablation_cells(results["ablations"])
            )
        )
    return parts


def _by_data_set(rows: Sequence[Row], methods: Sequence[str]) -> list[str]:
    return [
        _part(
            "Recall of classes with many (> 100), medium and few (< 20) training images",
            _pivot(rows, methods, _shots),
        ),
        _part(
            "Read-outs by which these were measured, chosen on validation images",
            _pivot(rows, methods, _readouts),
        ),
    ]


def _beside_each_other(results: Mapping[str, Any], images: str) -> list[str]:
    """What is said of methods over all data sets."""
    parts = []
    if results.get("readouts"):  # older results have none
        parts.append(
            _part(
                f"Balanced accuracy on the {images} by one read-out, mean over the data sets",
                readout_cells(results["readouts"]),
            )
        )
    if results["significance"]:
        parts += _significance(results["significance"])
    return parts


def _significance(tested: Mapping[str, Any]) -> list[str]:
    of_data_sets = tested.get("blocks_are") == "data sets"  # older results do not say: pairs
    blocks = "data sets" if of_data_sets else "pairs of data set and seed"
    ranks, p = tested["mean_ranks"], tested["friedman_p"]
    return [
        _part(
            f"Mean ranks over {tested['blocks']} {blocks}; those further apart than "
            f"{tested['critical_difference']:.2f} differ at 0.05 (Nemenyi)"
            + ("" if p is None else f"; all alike: p = {p:.2g} (Friedman)"),
            [["method", "mean rank"], *([m, f"{r:.2f}"] for m, r in _ascending(ranks))],
        ),
        _part(
            f"CLMLE against each of the others over {blocks} (Wilcoxon's signed-rank test)",
            pair_cells(tested),
        ),
    ]


def _claims(claims: Mapping[str, Any], images: str) -> str:
    table = _part(f"CLMLE beside the best of the others on the {images}", claims_cells(claims))
    words = (single_text(claims) + missing_text(claims)).replace("\n", "  \n")
    return table + (f"\n{words.rstrip()}\n" if words else "")


def _seconds_part(rows: Sequence[Row], methods: Sequence[str], machine: str) -> str:
    mixed = len({row.precision for row in rows}) > 1
    table = _part(
        f"Seconds a training, one core, start and evaluation included; written on {machine}",
        _pivot(rows, methods, partial(_seconds, mixed=mixed)),
    )
    return table + precision_text(rows)


def _part(heading: str, cells: Sequence[Sequence[str]]) -> str:
    return f"### {heading}\n\n{_markdown(cells)}"


def _folded(parts: Sequence[str]) -> str:
    summary, inner = "Recall by class size, read-outs, ranks, tests, seconds", "\n".join(parts)
    return f"<details>\n<summary>{summary}</summary>\n\n{inner}\n</details>\n"


def _markdown(cells: Sequence[Sequence[str]]) -> str:
    """A table: the first column to the left, the others to the right."""
    header, *body = [[cell.replace(" +- ", " ± ") for cell in line] for line in cells]
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *body))


def _ascending(ranks: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(ranks.items(), key=lambda item: item[1])


def _seeds(rows: Sequence[Row]) -> str:
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
) -> list[list[str]]:
    """A line a method, a column a data set, what `cell` says of their trainings."""
    datasets = list(dict.fromkeys(row.data for row in rows))
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.method, row.data), []).append(row)
    return [
        ["method", *datasets],
        *([method, *(cell(groups.get((method, d), ())) for d in datasets)] for method in methods),
    ]


def _accuracy(rows: Sequence[Row], methods: Sequence[str]) -> list[list[str]]:
    best: dict[str, float] = {}
    for data, method in dict.fromkeys((row.data, row.method) for row in rows):
        mean = mean_of(r.balanced_accuracy for r in rows if (r.data, r.method) == (data, method))
        if mean is not None:
            best[data] = max(mean, best.get(data, mean))

    def cell(mine: Sequence[Row]) -> str:
        values = [row.balanced_accuracy for row in mine if row.balanced_accuracy is not None]
        if not values:
            return "diverged" if mine else "-"
        mean, deviation = mean_and_deviation(values)
        text = f"{mean:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
        return f"**{text}**" if mean == best[mine[0].data] else text

    return _pivot(rows, methods, cell)


def _shots(mine: Sequence[Row]) -> str:
    means = [mean_of(getattr(row, group) for row in mine) for group in _SHOTS]
    if not any(mean is not None for mean in means):
        return "-"
    return " / ".join("-" if mean is None else f"{mean:.3f}" for mean in means)


def _readouts(mine: Sequence[Row]) -> str:
    return ", ".join(dict.fromkeys(row.readout for row in mine)) or "-"


def _seconds(mine: Sequence[Row], *, mixed: bool) -> str:
    """By precision where a table has both: those are two machines' seconds."""
    seconds: dict[str, list[float]] = {}
    for row in mine:
        if row.balanced_accuracy is not None:
            seconds.setdefault(row.precision, []).append(row.seconds)
    means = [
        f"{sum(values) / len(values):.0f}" + (f" ({kind})" if mixed else "")
        for kind, values in sorted(seconds.items())
    ]
    return ", ".join(means) or "-"
