"""Which methods of a data set get further seeds: those whose order matters most."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.accuracy.run.methods import METHODS, OURS
from benchmarks.accuracy.run.rows import Row

NUM_BEST = 3


def best_methods(rows: Iterable[Row], methods: Sequence[str]) -> list[str]:
    """The best methods of one data set, and CLMLE.

    Args:
        rows: one data set's, of the seeds that every method has: further ones would change what
            is best while they come in.
        methods: those that are compared.

    Returns:
        The `NUM_BEST` with the highest mean, best first, then CLMLE if it is compared and not among
        them. A method whose loss became infinite with any seed is not among the best.
    """
    values: dict[str, list[float | None]] = {}
    for row in rows:
        values.setdefault(row.method, []).append(row.balanced_accuracy)
    means = {
        method: statistics.fmean(value for value in of_method if value is not None)
        for method, of_method in values.items()
        if method in methods and None not in of_method
    }
    best = sorted(means, key=lambda method: -means[method])[:NUM_BEST]
    return _with_ours(best, methods)


def costliest_methods(methods: Sequence[str]) -> list[str]:
    """As many methods as will get further seeds at most: for an estimate before they are known."""
    others = sorted(
        (method for method in methods if method != OURS), key=lambda m: -METHODS[m].cost
    )
    return _with_ours(others[:NUM_BEST], methods)


def _with_ours(best: list[str], methods: Sequence[str]) -> list[str]:
    return [*best, OURS] if OURS in methods and OURS not in best else best
