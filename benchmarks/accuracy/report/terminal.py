"""Results as the text that a comparison prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.accuracy.report.ablation_table import ablation_text
from benchmarks.accuracy.report.accuracy_tables import (
    accuracy_cells,
    by_rank,
    chosen_cells,
    precision_text,
    shot_cells,
    with_ranks,
)
from benchmarks.accuracy.report.claims_table import claims_text
from benchmarks.accuracy.report.readout_table import readout_cells
from benchmarks.accuracy.report.significance_table import significance_text
from benchmarks.accuracy.run.rows import Row
from cluster_jobs.comparison import aligned


def terminal_text(results: Mapping[str, Any], *, tested: bool) -> str:
    """All tables, each under its heading, with aligned columns.

    Args:
        results: what `results.summarise` returns.
        tested: whether several methods were compared, so that significance tests are shown.
    """
    rows = [Row(**row) for row in results["results"]]
    found = results["significance"]
    ranks: dict[str, float] = found["mean_ranks"] if found else {}
    parts = [f"\n{heading}\n{aligned(cells)}" for heading, cells in _tables(results, rows, ranks)]
    return "".join(
        [
            *parts,
            "\n",
            significance_text(found, rows) if tested else "",
            ablation_text(results["ablations"]),
            claims_text(results["claims"]),
            precision_text(rows),
        ]
    )


def _tables(
    results: Mapping[str, Any], rows: Sequence[Row], ranks: Mapping[str, float]
) -> list[tuple[str, list[list[str]]]]:
    """(Heading, cells) of each table by method and data set."""
    methods = by_rank(rows, ranks)
    images = f"{results['split']} images"
    tables = [
        (
            f"balanced accuracy, {images}, mean +- standard deviation over the seeds",
            with_ranks(accuracy_cells(rows, methods), ranks),
        ),
        (
            "recall of classes with many (> 100) / medium / few (< 20) training images",
            shot_cells(rows, methods),
        ),
        ("read-outs by which these were measured", chosen_cells(rows, methods)),
    ]
    if results["readouts"]:
        tables.append(("balanced accuracy by one read-out", readout_cells(results["readouts"])))
    return tables
