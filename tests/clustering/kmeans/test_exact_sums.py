from __future__ import annotations

import numpy as np
import pytest

from clustering.kmeans import exact_sums
from clustering.kmeans.exact_sums import UNITS, change_of_sums, cluster_sums, in_units
from tests.helpers.reference_clustering import unit_rows

ROWS = unit_rows(np.random.default_rng(0), 50, 4)


def test_sums_of_members() -> None:
    assignment = np.random.default_rng(2).integers(0, 4, size=50)  # cluster 4 has none
    expected = [ROWS[assignment == j].astype(np.float64).sum(axis=0) for j in range(5)]
    sums = cluster_sums(in_units(ROWS), assignment, 5)
    np.testing.assert_allclose(sums / UNITS, expected, atol=1e-9)
    assert cluster_sums(in_units(ROWS[:0]), assignment[:0], 2).tolist() == [[0] * 4] * 2


def test_rows_without_a_cluster_do_not_count() -> None:
    assignment = np.random.default_rng(2).integers(-1, 5, size=50)
    chosen = assignment >= 0
    units = in_units(ROWS)
    sums = cluster_sums(units, assignment, 5)
    assert sums.tolist() == cluster_sums(units[chosen], assignment[chosen], 5).tolist()


@pytest.mark.parametrize("num_changed", [0, 1, 20, 21, 50])
def test_a_change_of_sums_is_that_of_the_sums_made_from_scratch(
    num_changed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one block of 20 rows, or in several; also of rows that were in no cluster."""
    monkeypatch.setattr(exact_sums, "_BLOCK_ROWS", 8)
    rng = np.random.default_rng(2)
    before = rng.integers(-1, 5, size=50)
    after = before.copy()
    changed = rng.choice(50, num_changed, replace=False)
    after[changed] = (before[changed] + 1) % 5
    units = in_units(ROWS)
    expected = cluster_sums(units, after, 5) - cluster_sums(units, before, 5)
    assert change_of_sums(ROWS, before, after, 5).tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_units_are_whole_and_add_up_in_any_order(dtype: type) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, size=10_000).astype(dtype)
    values[:3] = (1, -1, 1e-20)
    units = in_units(values)
    assert units.tolist() == [float(round(float(value) * 2**36)) for value in values]
    assert units.sum() == units[::-1].cumsum()[-1]
