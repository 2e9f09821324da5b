from __future__ import annotations

import numpy as np

from benchmarks.accuracy.report.significance import summarise
from benchmarks.accuracy.report.significance_table import score_table, significance_text
from tests.helpers.benchmark_records import row_of_record


def test_a_data_set_with_a_seed_that_lacks_a_method_has_a_gap() -> None:
    rows = [
        row_of_record("a", 0.5),
        row_of_record("b", 0.6),
        row_of_record("a", 0.7, seed=1),
        row_of_record("b", None, seed=1),
    ]
    rows += [row_of_record("a", 0.1, data="more"), row_of_record("b", 0.2, data="more")]
    table, methods = score_table(rows, ["b", "a", "c"])
    assert methods == ["b", "a"]
    nan = np.nan
    expected = [[[0.6, 0.5], [nan, 0.7]], [[0.2, 0.1], [nan, nan]]]
    assert np.array_equal(table, expected, equal_nan=True)
    assert score_table([], ["a"])[0].shape == (0, 0, 0)


def test_tests_in_words() -> None:
    rows = [
        row_of_record("a", 0.5),
        row_of_record("a", 0.7, seed=1),
        row_of_record("b", 0.8),
        row_of_record("b", 0.9, seed=1),
    ]
    rows += [row_of_record("c", None), row_of_record("c", None, seed=1)]
    found = summarise(*score_table(rows, ["a", "b"]))
    tests = significance_text(found, [*rows, row_of_record("c", None, seed=2)])
    assert "over 2 of 3 (data set, seed) pairs" in tests
    assert "b > a" in tests
    assert "25.00" in tests  # points
    assert "not tested" in significance_text(None, [])


def test_blocks_of_data_sets_are_called_so() -> None:
    rows = [
        row_of_record(m, v, data=f"data {n}") for n in range(6) for m, v in (("a", 0.5), ("b", 0.4))
    ]
    found = summarise(*score_table(rows, ["a", "b"]))
    text = significance_text(
        found, [*rows, row_of_record("a", 0.5, data="more"), row_of_record("a", 0.5, seed=1)]
    )
    assert "over 6 of 8 data sets (means over common seeds): mean ranks" in text
