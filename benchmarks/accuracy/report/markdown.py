"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.accuracy.report.ablation_table import ablation_cells
from benchmarks.accuracy.report.accuracy_tables import (
    accuracy_cells,
    by_rank,
    chosen_cells,
    precision_text,
    seconds_cells,
    seeds_text,
    shot_cells,
)
from benchmarks.accuracy.report.claims_table import claims_cells, missing_text, single_text
from benchmarks.accuracy.report.readout_table import readout_cells
from benchmarks.accuracy.report.significance_table import pair_cells
from benchmarks.accuracy.run.rows import Row


def markdown_tables(results: Mapping[str, Any]) -> str:
    """All tables of one comparison, each under its heading.

    Args:
        results: as a comparison writes them.

    Raises:
        AttributeError, KeyError, TypeError: they are not.
    """
    rows = [Row(**row) for row in results["results"]]
    images = f"{results['split']} images"
    tested = results["significance"]
    ranks: dict[str, float] = tested["mean_ranks"] if tested else {}
    methods = by_rank(rows, ranks)
    more = [
        *_by_data_set(rows, methods),
        *_over_all_data_sets(results, images),
        _seconds_part(rows, methods, results["machine"]),
    ]
    answers = _answers(results, rows, methods, images)
    return "\n".join([*answers, _folded(more, tested=tested is not None)])


def _answers(
    results: Mapping[str, Any], rows: Sequence[Row], methods: Sequence[str], images: str
) -> list[str]:
    """What most readers come for."""
    parts = [
        _part(
            f"Balanced accuracy on the {images}, mean ± standard deviation over "
            f"{seeds_text(rows)}; the best of a data set is bold",
            accuracy_cells(rows, methods, best="**{}**"),
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
            shot_cells(rows, methods),
        ),
        _part(
            "Read-outs by which these were measured, chosen on validation images",
            chosen_cells(rows, methods),
        ),
    ]


def _over_all_data_sets(results: Mapping[str, Any], images: str) -> list[str]:
    """Read-outs and tests of significance over all data sets together."""
    parts = []
    if results["readouts"]:
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
    of_data_sets = tested["blocks_are"] == "data sets"
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
    table = _part(f"CLMLE and the best of the others on the {images}", claims_cells(claims))
    words = (single_text(claims) + missing_text(claims)).replace("\n", "  \n")
    return table + (f"\n{words.rstrip()}\n" if words else "")


def _seconds_part(rows: Sequence[Row], methods: Sequence[str], machine: str) -> str:
    table = _part(
        f"Seconds per training run, one core, start and evaluation included; written on {machine}",
        seconds_cells(rows, methods),
    )
    return table + precision_text(rows)


def _part(heading: str, cells: Sequence[Sequence[str]]) -> str:
    return f"### {heading}\n\n{_markdown(cells)}"


def _folded(parts: Sequence[str], *, tested: bool) -> str:
    summary = f"Recall by class size, read-outs,{' ranks, tests,' if tested else ''} seconds"
    inner = "\n".join(parts)
    return f"<details>\n<summary>{summary}</summary>\n\n{inner}\n</details>\n"


def _markdown(cells: Sequence[Sequence[str]]) -> str:
    """A table: the first column to the left, the others to the right."""
    header, *body = [[cell.replace(" +- ", " ± ") for cell in line] for line in cells]
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *body))


def _ascending(ranks: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(ranks.items(), key=lambda item: item[1])
