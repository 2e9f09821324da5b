"""Exact search in blocks: the largest entries of each row of a matrix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from data_shards.progress import OnStep, no_step

# A block of float32 similarities takes 64 MiB, the positions that `top_k` sorts 128 MiB.
_BLOCK_ENTRIES = 1 << 24


def row_blocks(
    num_rows: int, num_columns: int, block_size: int | None = None, on_step: OnStep = no_step
) -> Iterator[slice]:
    """Cut the rows of a matrix that is too large to hold into blocks.

    Args:
        num_rows: rows in all.
        num_columns: entries of a row.
        block_size: rows of a block; None for as many as make about 16 million entries.
        on_step: called when a block is done: when the next one is asked for.

    Yields:
        Slices that cover 0 .. num_rows - 1 in order.
    """
    size = block_size or max(1, _BLOCK_ENTRIES // max(1, num_columns))
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))
        on_step()


def top_k(
    similarities: npt.NDArray[np.float32], num_wanted: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Find the largest entries of each row.

    Args:
        similarities: (N, M) float32, no NaN.
        num_wanted: k, 0 <= k <= M.

    Returns:
        (N, k) int64 columns by descending entry, equal entries by ascending column, and the
        (N, k) float32 entries themselves.
    """
    num_columns = similarities.shape[1]
    if num_wanted == 0:
        columns = np.empty((len(similarities), 0), dtype=np.int64)
    elif num_wanted == num_columns:
        columns = np.argsort(-similarities, axis=1, kind="stable")
    else:
        columns = _largest(similarities, num_wanted)
    return columns, np.take_along_axis(similarities, columns, axis=1)


def _largest(similarities: npt.NDArray[np.float32], num_wanted: int) -> npt.NDArray[np.int64]:
    split = similarities.shape[1] - num_wanted
    columns = np.argpartition(similarities, split, axis=1)[:, split:]
    columns.sort(axis=1)
    entries = np.take_along_axis(similarities, columns, axis=1)
    # argpartition takes any of the entries that equal the smallest one taken.
    smallest = entries.min(axis=1, keepdims=True)
    taken = np.count_nonzero(entries == smallest, axis=1)
    present = np.count_nonzero(similarities == smallest, axis=1)
    by_entry = np.argsort(-entries, axis=1, kind="stable")
    columns = np.take_along_axis(columns, by_entry, axis=1)
    for row in np.flatnonzero(present > taken):
        columns[row] = np.argsort(-similarities[row], kind="stable")[:num_wanted]
    return columns
