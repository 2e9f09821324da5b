"""Are differences between methods more than chance? Pure functions of tables of scores.

Legend: D data sets, S seeds, K methods, N blocks. Demsar: Statistical Comparisons of Classifiers
over Multiple Data Sets, JMLR 7, 2006. The seeds of a data set share its images, so a block is a
data set where there are enough of them: the score of a method there is its mean over the seeds that
all of the compared methods have. Else a block is a data set with a seed, and a small p means
"not by chance of the seeds" rather than "on any data".
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
BlockKind = Literal["data sets", "data sets with seeds"]
MIN_DATA_SETS = 6
"""Blocks are data sets from here on: the smallest p of Wilcoxon's test, 2 / 2^N, is below 0.05."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two methods, over the blocks that both have."""

    better: str
    """The one with the higher mean."""
    worse: str
    blocks: int
    """In which both have a score; all else here is over these."""
    difference: float
    """Of the means, >= 0."""
    p: float
    """Wilcoxon's signed-rank test, two-sided."""
    p_holm: float
    """Corrected for the number of pairs that are tested."""


def mean_ranks(scores: Floats) -> Floats:
    """Rank the methods within each block, 1 the best, ties sharing; average over the blocks.

    Args:
        scores: (N, K), higher is better.

    Returns:
        (K,) in [1, K].
    """
    mean: Floats = stats.rankdata(-scores, axis=1).mean(axis=0)
    return mean


def friedman_p(scores: Floats) -> float | None:
    """Friedman's test that all methods are alike; None below three methods or two blocks.

    Args:
        scores: (N, K).
    """
    num_blocks, num_methods = scores.shape
    if num_methods < 3 or num_blocks < 2 or (np.ptp(scores, axis=1) == 0).all():
        return None
    return float(stats.friedmanchisquare(*scores.T).pvalue)


def critical_difference(num_methods: int, num_blocks: int, *, alpha: float = 0.05) -> float:
    """Nemenyi's test: mean ranks further apart than this differ (Demsar, section 3.2.2).

    q / sqrt(2) * sqrt(K (K + 1) / (6 N)), q of the studentised range with infinitely many degrees
    of freedom.

    Args:
        num_methods: K, >= 2.
        num_blocks: N, >= 1.
        alpha: probability of a false alarm in all the pairs together.
    """
    q = float(stats.studentized_range.ppf(1 - alpha, num_methods, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(num_methods * (num_methods + 1) / (6 * num_blocks)))


def holm(p_values: Floats) -> Floats:
    """Correct for the number of tests (Holm, 1979): as safe as Bonferroni, and loses less.

    Args:
        p_values: (T,) of the tests.

    Returns:
        (T,) corrected, in the same order, at most 1, and in the order of the p-values.
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    result = np.empty_like(corrected)
    result[order] = corrected
    return result


def signed_rank_p(differences: Floats) -> float:
    """Wilcoxon's signed-rank test that differences lie around 0, two-sided; 1 if all are 0.

    Args:
        differences: (N,).
    """
    if not differences.any():
        return 1.0
    return float(stats.wilcoxon(differences).pvalue)


def whole_blocks(scores: Floats, kind: BlockKind) -> Floats:
    """The blocks in which every method has a score.

    Args:
        scores: (D, S, K), NaN where a method has none.
        kind: what a block is; of a data set, the mean over the seeds that every method has.

    Returns:
        (N, K), no NaN; N may be 0.
    """
    whole: npt.NDArray[np.bool_] = np.all(~np.isnan(scores), axis=2)
    if kind == "data sets with seeds":
        return scores[whole]
    complete = whole.any(axis=1)
    means: Floats = scores[complete].mean(axis=1, where=whole[complete, :, None])
    return means


def compare_pairs(
    scores: Floats, methods: list[str], kind: BlockKind, *, control: str | None = None
) -> list[Pair]:
    """Test pairs of methods that have a common block, the surest difference first.

    Args:
        scores: (D, S, K), NaN where a method has none.
        methods: names of the K columns.
        kind: what a block is.
        control: test only its pairs, if it is among the methods: to ask whether one method differs
            from the others takes K - 1 tests, and all pairs of 22 methods on ten data sets could
            never reach 0.05 (Demsar, section 3.2.2).
    """
    differences = {}
    for a, b in combinations(range(len(methods)), 2):
        if control in methods and control not in (methods[a], methods[b]):
            continue
        both = whole_blocks(scores[:, :, [a, b]], kind)
        if len(both):
            differences[a, b] = both[:, 0] - both[:, 1]
    p_values = np.array([signed_rank_p(difference) for difference in differences.values()])
    found = []
    for ((a, b), difference), p, p_holm in zip(
        differences.items(), p_values, holm(p_values), strict=True
    ):
        mean = float(difference.mean())
        better, worse = (a, b) if mean >= 0 else (b, a)
        found.append(
            Pair(
                better=methods[better],
                worse=methods[worse],
                blocks=len(difference),
                difference=abs(mean),
                p=float(p),
                p_holm=float(p_holm),
            )
        )
    return sorted(found, key=lambda pair: (pair.p, -pair.difference))


def summarise(
    scores: Floats, methods: list[str], *, control: str | None = None
) -> dict[str, Any] | None:
    """All of the above as JSON; None with fewer than two methods or whole blocks.

    Ranks are over whole blocks, in which every method has a score; each pair is tested over all
    blocks that both have. Blocks are data sets where `MIN_DATA_SETS` or more are whole.

    Args:
        scores: (D, S, K), NaN where a method has none.
        methods: names of the K columns.
        control: as in `compare_pairs`.
    """
    kind: BlockKind = "data sets"
    whole = whole_blocks(scores, kind)
    if len(whole) < MIN_DATA_SETS:
        kind = "data sets with seeds"
        whole = whole_blocks(scores, kind)
    num_blocks, num_methods = whole.shape
    if num_blocks < 2 or num_methods < 2:
        return None
    ranks = mean_ranks(whole).tolist()
    return {
        "blocks": num_blocks,
        "blocks_are": kind,
        "mean_ranks": dict(zip(methods, ranks, strict=True)),
        "friedman_p": friedman_p(whole),
        "critical_difference": critical_difference(num_methods, num_blocks),
        "pairs": [vars(pair) for pair in compare_pairs(scores, methods, kind, control=control)],
    }
