from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from scipy import stats

from benchmarks.accuracy.report.significance import (
    BlockKind,
    compare_pairs,
    critical_difference,
    friedman_p,
    holm,
    mean_ranks,
    signed_rank_p,
    summarise,
    whole_blocks,
)
from tests.helpers import reference_significance as reference


def scores(blocks: int, methods: int, *, seed: int = 0, ties: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = rng.random((blocks, methods))
    return np.round(drawn, 1) if ties else drawn


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shape", [(1, 2), (5, 4), (9, 7)])
def test_ranks_are_counted(shape, ties) -> None:
    made = scores(*shape, ties=ties)
    assert mean_ranks(made) == pytest.approx(reference.mean_ranks(made.tolist()))
    assert mean_ranks(made).sum() == pytest.approx(shape[1] * (shape[1] + 1) / 2)


def test_the_highest_score_has_rank_one() -> None:
    assert mean_ranks(np.array([[0.2, 0.9, 0.5]])).tolist() == [3, 1, 2]
    assert mean_ranks(np.array([[0.5, 0.9, 0.5]])).tolist() == [2.5, 1, 2.5]


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_its_definition(seed) -> None:
    p = np.random.default_rng(seed).random(1 + seed) ** 3
    if seed % 2:
        p[0] = p[-1]
    assert holm(p) == pytest.approx(reference.holm(p.tolist()))
    assert (holm(p) >= p).all()


def test_holm_of_a_worked_example() -> None:
    # 4 x .005, 3 x .01, 2 x .03, then .04, which may not be below the one before.
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("seed", range(8))
def test_signed_ranks_are_enumerated(seed) -> None:
    differences = np.random.default_rng(seed).normal(0.3, 1, size=3 + seed)
    assert signed_rank_p(differences) == pytest.approx(reference.signed_rank_p(differences))


def test_methods_that_never_differ_are_alike() -> None:
    assert signed_rank_p(np.zeros(5)) == 1.0
    assert friedman_p(np.full((4, 3), 0.5)) is None


def test_friedman_is_its_formula() -> None:
    made = scores(8, 4)
    statistic = reference.friedman_statistic(made.tolist())
    assert friedman_p(made) == pytest.approx(stats.chi2.sf(statistic, df=3))
    assert friedman_p(made[:, :2]) is None
    assert friedman_p(made[:1]) is None


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_difference_by_the_published_table(methods, q) -> None:
    # Demsar (2006), table 5(a).
    expected = q * np.sqrt(methods * (methods + 1) / (6 * 30))
    assert critical_difference(methods, 30) == pytest.approx(expected, abs=1e-3)


def test_pairs_say_who_is_better() -> None:
    good = scores(6, 1)
    made = np.hstack([good, good - 0.1 - scores(6, 1, seed=1) / 10, good])
    first, second, third = compare_pairs(made[None], ["a", "b", "c"], "data sets with seeds")
    assert {(first.better, first.worse), (second.better, second.worse)} == {("a", "b"), ("c", "b")}
    assert first.difference == pytest.approx((made[:, 0] - made[:, 1]).mean())
    assert first.p == pytest.approx(2 / 2**6)
    assert first.p_holm == pytest.approx(3 * first.p)
    assert (third.difference, third.p) == (0, 1)


def test_pairs_of_one_method_are_fewer_tests() -> None:
    made = scores(6, 4)[:, None]
    names = ["a", "b", "c", "d"]
    every = compare_pairs(made, names, "data sets")
    of_c = compare_pairs(made, names, "data sets", control="c")
    assert len(every) == 6
    assert [pair.p for pair in of_c] == [p.p for p in every if "c" in (p.better, p.worse)]
    assert [pair.p_holm for pair in of_c] == holm(np.array([pair.p for pair in of_c])).tolist()
    assert compare_pairs(made, names, "data sets", control="not trained") == every
    # One that always wins is found among 22 methods, which all pairs together could not show.
    many = scores(10, 22)[:, None] + 10 * (np.arange(22) == 0)
    names = [f"method {number}" for number in range(22)]
    found = summarise(many, names, control="method 0")
    assert found is not None
    assert max(pair["p_holm"] for pair in found["pairs"]) == pytest.approx(21 * 2 / 2**10)
    found = summarise(many, names)
    assert found is not None
    assert min(pair["p_holm"] for pair in found["pairs"]) > 0.05


def test_a_gap_is_left_out_of_the_pairs_that_it_concerns() -> None:
    made = scores(6, 3)
    made[4:, 2] = np.nan
    found = summarise(made.reshape(2, 3, 3), ["a", "b", "c"])
    assert found is not None
    assert (found["blocks"], found["blocks_are"]) == (4, "data sets with seeds")
    assert list(found["mean_ranks"].values()) == mean_ranks(made[:4]).tolist()
    pairs = {frozenset((pair["better"], pair["worse"])): pair for pair in found["pairs"]}
    assert {"".join(sorted(names)): pair["blocks"] for names, pair in pairs.items()} == {
        "ab": 6,
        "ac": 4,
        "bc": 4,
    }
    assert pairs[frozenset("ab")]["p"] == signed_rank_p(made[:, 0] - made[:, 1])
    assert pairs[frozenset("ac")]["p"] == signed_rank_p(made[:4, 0] - made[:4, 2])
    never_together = np.array([[[0.5, np.nan]], [[np.nan, 0.4]]])
    for kind in get_args(BlockKind):
        assert compare_pairs(never_together, ["a", "b"], kind) == []
    assert summarise(never_together, ["a", "b"]) is None


def test_blocks_are_data_sets_where_there_are_enough() -> None:
    """Eight data sets of up to five seeds; c has three of them, and a gap in two data sets."""
    made = scores(8 * 5, 3).reshape(8, 5, 3)
    made[:, 3:, 2] = np.nan
    made[1:, 4] = np.nan
    made[0, 0, 2] = made[1, :, 2] = made[2, :3, 0] = np.nan
    places = [(n, s, k) for n, s, k in np.ndindex(made.shape) if not np.isnan(made[n, s, k])]
    known = {(f"data {n}", s, "abc"[k]): float(made[n, s, k]) for n, s, k in places}

    found = summarise(made, ["a", "b", "c"])
    assert found is not None
    assert (found["blocks"], found["blocks_are"]) == (6, "data sets")
    whole = np.array(reference.means_of_data_sets(known, "abc"))
    assert whole_blocks(made, "data sets") == pytest.approx(whole)
    assert list(found["mean_ranks"].values()) == mean_ranks(whole).tolist()
    assert found["friedman_p"] == friedman_p(whole)
    assert found["critical_difference"] == critical_difference(3, 6)
    for pair in found["pairs"]:
        both = np.array(reference.means_of_data_sets(known, [pair["better"], pair["worse"]]))
        differences = both[:, 0] - both[:, 1]
        assert pair["blocks"] == len(both)
        assert pair["difference"] == pytest.approx(differences.mean())
        assert pair["p"] == pytest.approx(reference.signed_rank_p(differences.tolist()))
    assert sorted(pair["blocks"] for pair in found["pairs"]) == [6, 7, 8]

    made[3, :, 0] = np.nan  # five are too few: all pairs of data set and seed again
    found = summarise(made, ["a", "b", "c"])
    assert found is not None
    assert found["blocks_are"] == "data sets with seeds"
    assert found["blocks"] == 2 + 4 * 3


def test_a_summary_needs_something_to_compare() -> None:
    assert summarise(scores(1, 3)[None], ["a", "b", "c"]) is None
    assert summarise(scores(3, 1)[None], ["a"]) is None
    found = summarise(scores(3, 2)[None], ["a", "b"])
    assert found is not None
    assert found["blocks"] == 3
    assert set(found["mean_ranks"]) == {"a", "b"}
    assert len(found["pairs"]) == 1
