from __future__ import annotations

import numpy as np
import pytest

from clustering.table.top_k import row_blocks, top_k


@pytest.mark.parametrize("num_wanted", [0, 1, 3, 8, 9])
@pytest.mark.parametrize("num_values", [2, 4, 1000])
def test_equals_a_stable_sort(num_wanted: int, num_values: int) -> None:
    """Few different values make ties everywhere, at the border of the k largest too."""
    rng = np.random.default_rng(num_values)
    similarities = (rng.integers(0, num_values, size=(40, 9)) / num_values).astype(np.float32)
    columns, entries = top_k(similarities, num_wanted)
    for row, got, got_entries in zip(similarities, columns, entries, strict=True):
        expected = sorted(range(9), key=lambda j: (-row[j], j))[:num_wanted]
        assert got.tolist() == expected
        np.testing.assert_array_equal(got_entries, row[expected])


def test_minus_infinity_comes_last() -> None:
    row = np.array([[-np.inf, 0.5, -np.inf, -1.0]], dtype=np.float32)
    assert top_k(row, 3)[0].tolist() == [[1, 3, 0]]


def test_no_rows() -> None:
    columns, entries = top_k(np.empty((0, 5), dtype=np.float32), 2)
    assert columns.shape == entries.shape == (0, 2)


def test_blocks_cover_the_rows_once() -> None:
    blocks = list(row_blocks(10, 7, block_size=4))
    assert blocks == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert list(row_blocks(0, 7)) == []


def test_a_block_is_bounded_but_never_empty() -> None:
    assert next(row_blocks(10**9, 1000)).stop * 1000 <= 1 << 24
    assert next(row_blocks(5, 10**9)) == slice(0, 1)
