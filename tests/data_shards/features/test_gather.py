from __future__ import annotations

import numpy as np

from data_shards.features.gather import gather_rows

DIM = 5


def test_rows_of_parts_are_those_of_the_parts_joined() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.random((n, DIM), dtype=np.float32) for n in (4, 0, 1, 7, 0)]
    for num_rows in (0, 1, 50):
        positions = rng.integers(0, 12, num_rows, dtype=np.int32)
        got = gather_rows(parts, positions, DIM)
        np.testing.assert_array_equal(got, np.concatenate(parts)[positions])
