from __future__ import annotations

from benchmarks.accuracy.report.accuracy_tables import (
    accuracy_cells,
    by_rank,
    chosen_cells,
    seeds_text,
    shot_cells,
    with_ranks,
)
from benchmarks.accuracy.report.significance import summarise
from benchmarks.accuracy.report.significance_table import score_table
from tests.helpers.benchmark_records import row_of_record


def test_rows_as_cells() -> None:
    rows = [
        row_of_record("a", 0.5),
        row_of_record("a", 0.7, seed=1),
        row_of_record("b", 0.8),
        row_of_record("b", 0.9, seed=1),
    ]
    rows += [
        row_of_record("c", None),
        row_of_record("c", None, seed=1),
        row_of_record("d", 0.95),
        row_of_record("d", None, seed=1),
    ]
    found = summarise(*score_table(rows, ["a", "b"]))
    assert found is not None
    methods = by_rank(rows, found["mean_ranks"])
    assert methods == ["b", "a", "c", "d"]
    cells = accuracy_cells(rows, methods, best="**{}**")
    assert with_ranks(cells, found["mean_ranks"]) == [
        ["method", "mean rank", "digits"],
        ["b", "1.00", "**0.8500 +- 0.0707**"],
        ["a", "2.00", "0.6000 +- 0.1414"],
        ["c", "-", "diverged"],
        ["d", "-", "0.9500 (1 of 2 diverged)"],
    ]
    assert accuracy_cells([*rows, row_of_record("a", 0.1, data="lfw10")], ["b"])[1][-1] == "-"
    assert shot_cells(rows, ["a"])[1] == ["a", "1.000 / 0.800 / 0.400"]
    assert chosen_cells(rows, ["a", "e"])[1:] == [["a", "knc_soft"], ["e", "-"]]
    assert seeds_text(rows) == "2 seeds"
    assert seeds_text([*rows, row_of_record("a", 0.1, seed=2)]) == "2 to 3 seeds"
