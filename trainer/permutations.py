"""Endless series of permutations, each a pure function of its stream: nothing to save or resume."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

# Permutations up to this length are made anew in microseconds.
_LONG = 1000


def permutation(stream: tuple[int, ...], size: int) -> IntArray:
    """The permutation of range(size) that belongs to a stream of randomness; read-only."""
    permute = _kept_permutation if size > _LONG else _new_permutation
    return permute(stream, size)


def permuted(positions: IntArray, size: int, stream: tuple[int, ...]) -> IntArray:
    """What stands at these positions of an endless series of permutations of range(size).

    Args:
        positions: (N,) int64 >= 0, in any order.
        size: of each permutation, >= 1.
        stream: of the series; permutation number n belongs to (*stream, n).

    Returns:
        (N,) int64 in [0, size).
    """
    passes, places = np.divmod(positions, size)
    found = np.empty_like(positions)
    for pass_number in np.unique(passes).tolist():
        now = passes == pass_number
        found[now] = permutation((*stream, pass_number), size)[places[now]]
    return found


def _new_permutation(stream: tuple[int, ...], size: int) -> IntArray:
    made = np.random.default_rng(stream).permutation(size)
    made.flags.writeable = False  # it may be kept, and given out again
    return made


# Long ones serve many steps; those at hand of a few tasks are kept (8 MB for a million rows).
_kept_permutation = lru_cache(maxsize=8)(_new_permutation)
