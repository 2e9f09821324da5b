"""Endless series of permutations, each a pure function of its stream: nothing to save or resume."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

# Permutations up to this length are made again in microseconds.
_LONG = 1000
# Rows of the permutations that are kept: 1 GiB.
_MOST_ROWS = 2**27


def permutation(stream: tuple[int, ...], size: int) -> IntArray:
    """The permutation of range(size) that belongs to a stream of randomness; read-only.

    Args:
        stream: of the series, then the number of the permutation in it. One that is asked for
            again before another of its series is found, not made: steps go along a series, and a
            step along one for each class.
        size: >= 1.
    """
    return _new_permutation(stream, size) if size <= _LONG else _kept.permutation(stream, size)


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
    for pass_number in sorted(set(passes.tolist())):
        now = passes == pass_number
        found[now] = permutation((*stream, pass_number), size)[places[now]]
    return found


def _new_permutation(stream: tuple[int, ...], size: int) -> IntArray:
    made = np.random.default_rng(stream).permutation(size)
    made.flags.writeable = False  # it may be kept, and given out again
    return made


class _Kept:
    """The last permutation of each series, of the series that were used last."""

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._rows = 0
        self._last: OrderedDict[tuple[int, ...], tuple[int, IntArray]] = OrderedDict()

    def permutation(self, stream: tuple[int, ...], size: int) -> IntArray:
        *series, number = stream
        key = (*series, size)
        kept_number, kept = self._last.pop(key, (None, None))
        if kept is None:
            self._rows += size
        if kept is None or kept_number != number:
            kept = _new_permutation(stream, size)
        self._last[key] = number, kept
        while self._rows > self._most_rows and len(self._last) > 1:
            _, (_, dropped) = self._last.popitem(last=False)
            self._rows -= len(dropped)
        return kept


_kept = _Kept(_MOST_ROWS)
