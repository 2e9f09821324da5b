"""Slow, obvious twins of `benchmarks.accuracy.report.significance`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product


def means_of_data_sets(
    scores: Mapping[tuple[str, int, str], float], methods: Sequence[str]
) -> list[list[float]]:
    """Scores of the methods by data set, means over the seeds that all have; where there are any.

    Args:
        scores: (data set, seed, method) -> score.
        methods: that are compared.
    """
    table = []
    for data in sorted({data for data, _, _ in scores}):
        seeds = [
            seed
            for seed in sorted({seed for _, seed, _ in scores})
            if all((data, seed, method) in scores for method in methods)
        ]
        if seeds:
            sums = [sum(scores[data, seed, method] for seed in seeds) for method in methods]
            table.append([total / len(seeds) for total in sums])
    return table


def mean_ranks(scores: Sequence[Sequence[float]]) -> list[float]:
    """1 + how many are better + half of how many others are as good, over the blocks."""
    num_methods = len(scores[0])
    ranks = [0.0] * num_methods
    for block in scores:
        for method, score in enumerate(block):
            better = sum(other > score for other in block)
            alike = sum(other == score for other in block) - 1
            ranks[method] += (1 + better + alike / 2) / len(scores)
    return ranks


def holm(p_values: Sequence[float]) -> list[float]:
    """The definition: the largest of (tests not yet rejected) x p over all p at most as large."""
    order = sorted(range(len(p_values)), key=lambda test: p_values[test])
    corrected = [0.0] * len(p_values)
    for place, test in enumerate(order):
        so_far = [(len(order) - earlier) * p_values[order[earlier]] for earlier in range(place + 1)]
        corrected[test] = min(1.0, max(so_far))
    return corrected


def signed_rank_p(differences: Sequence[float]) -> float:
    """Every way to give the ranks signs; no two differences alike in size, none 0."""
    by_size = sorted(differences, key=abs)
    ranks = range(1, len(by_size) + 1)
    positive = sum(rank for rank, value in zip(ranks, by_size, strict=True) if value > 0)
    middle = sum(ranks) / 2
    as_far = [
        abs(sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign) - middle)
        >= abs(positive - middle)
        for signs in product((False, True), repeat=len(by_size))
    ]
    return sum(as_far) / len(as_far)


def friedman_statistic(scores: Sequence[Sequence[float]]) -> float:
    """12 N / (K (K + 1)) (sum of squared mean ranks - K (K + 1)^2 / 4); without ties."""
    n, k = len(scores), len(scores[0])
    squares = sum(rank**2 for rank in mean_ranks(scores))
    return 12 * n / (k * (k + 1)) * (squares - k * (k + 1) ** 2 / 4)
