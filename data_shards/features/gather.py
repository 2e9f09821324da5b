"""Rows of several arrays as if the arrays were concatenated."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt


def gather_rows(
    parts: Sequence[npt.NDArray[np.float32]], positions: npt.NDArray[np.integer], dim: int
) -> npt.NDArray[np.float32]:
    """Gather rows of arrays as if the arrays were concatenated.

    Args:
        parts: (any, D) float32 each.
        positions: (P,) row numbers in the concatenation, in any order.
        dim: D.

    Returns:
        (P, D) float32, a new array in the order of `positions`.
    """
    starts = np.cumsum([0, *(len(part) for part in parts)])
    return gather_from(parts.__getitem__, starts, positions, dim)


def gather_from(
    part: Callable[[int], npt.NDArray[np.float32]],
    starts: npt.NDArray[np.int64],
    positions: npt.NDArray[np.integer],
    dim: int,
) -> npt.NDArray[np.float32]:
    """`gather_rows` of parts that are fetched only if one of their rows is asked for.

    Args:
        part: (any, D) float32 by its number.
        starts: (parts + 1,) where each begins among all rows, and where the last ends.
        positions: (P,) row numbers in the concatenation, in any order.
        dim: D.
    """
    gathered = np.empty((len(positions), dim), dtype=np.float32)
    part_of = np.searchsorted(starts, positions, side="right") - 1
    # Sorted once: searching for the rows of each part would take time per part.
    order = np.argsort(part_of, kind="stable")
    numbers, firsts = np.unique(part_of[order], return_index=True)
    for number, chosen in zip(numbers.tolist(), np.split(order, firsts[1:]), strict=False):
        gathered[chosen] = part(number)[positions[chosen] - starts[number]]
    return gathered
