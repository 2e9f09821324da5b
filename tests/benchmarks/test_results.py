from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.accuracy.report.plots import SUFFIXES, plot_all
from benchmarks.accuracy.report.readouts import readout_cells, summarise_readouts
from benchmarks.accuracy.report.results import (
    as_csv,
    make_row,
    score_table,
    significance_text,
)
from benchmarks.accuracy.report.row_cells import (
    accuracy_cells,
    by_rank,
    chosen_cells,
    seeds_text,
    shot_cells,
    with_ranks,
)
from benchmarks.accuracy.report.significance import summarise
from benchmarks.accuracy.run import jobs, recipes
from benchmarks.accuracy.run.costs import CostEstimate, in_words
from benchmarks.accuracy.run.datasets import DATASETS
from benchmarks.accuracy.run.jobs import Record
from benchmarks.accuracy.run.methods import METHODS
from benchmarks.accuracy.run.recipes import (
    Recipe,
    choose,
    default_recipe,
    family_of,
    find_recipe,
    load,
    outdated,
    save,
    search_checksum,
    trials_of,
)
from data_shards.errors import DataError
from trainer.config import recipe_rules

RECORD = Record(
    data="digits",
    method="clmle",
    seed=0,
    split="test",
    chosen={"optim.learning_rate": 0.1},
    balanced_accuracy={"head": 0.6, "knc_soft": 0.7},
    recall_by_size={
        "head": {"many": 0.6, "medium": 0.6, "few": 0.6},
        "knc_soft": {"many": 1.0, "medium": 0.8, "few": 0.4},
    },
    images_seen=6000,
    precision="fp32",
    seconds=12.0,
)
SOFT = Recipe(settings={}, readout="knc_soft", tried=[])


def row(method: str, value: float | None, *, seed: int = 0, data: str = "digits"):
    made = make_row(RECORD, SOFT)
    return replace(made, method=method, seed=seed, data=data, balanced_accuracy=value)


def test_a_row_is_a_record_by_its_recipe() -> None:
    made = make_row(RECORD, SOFT)
    assert (made.readout, made.balanced_accuracy) == ("knc_soft", 0.7)
    assert (made.many, made.medium, made.few) == (1.0, 0.8, 0.4)


def test_a_loss_that_became_infinite_is_a_row_without_numbers() -> None:
    made = make_row(replace(RECORD, balanced_accuracy={}, recall_by_size={}), SOFT)
    assert (made.balanced_accuracy, made.many, made.few) == (None, None, None)


def test_a_read_out_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="wants read-out knn, the training has head, knc_soft"):
        make_row(RECORD, replace(SOFT, readout="knn"))


def test_a_data_set_with_a_seed_that_lacks_a_method_has_a_gap() -> None:
    rows = [row("a", 0.5), row("b", 0.6), row("a", 0.7, seed=1), row("b", None, seed=1)]
    rows += [row("a", 0.1, data="more"), row("b", 0.2, data="more")]
    table, methods = score_table(rows, ["b", "a", "c"])
    assert methods == ["b", "a"]
    nan = np.nan
    expected = [[[0.6, 0.5], [nan, 0.7]], [[0.2, 0.1], [nan, nan]]]
    assert np.array_equal(table, expected, equal_nan=True)
    assert score_table([], ["a"])[0].shape == (0, 0, 0)


def test_rows_as_cells() -> None:
    rows = [row("a", 0.5), row("a", 0.7, seed=1), row("b", 0.8), row("b", 0.9, seed=1)]
    rows += [row("c", None), row("c", None, seed=1), row("d", 0.95), row("d", None, seed=1)]
    found = summarise(*score_table(rows, ["a", "b"]))
    assert found is not None
    methods = by_rank(rows, found["mean_ranks"])
    assert methods == ["b", "a", "c", "d"]
    cells = accuracy_cells(rows, methods, best="**{}**")
    assert with_ranks(cells, found["mean_ranks"]) == [
        ["method", "mean rank", "digits"],
        ["b", "1.00", "**0.8500 +- 0.0707**"],
        ["a", "2.00", "0.6000 +- 0.1414"],
        ["c", "-", "diverged"],
        ["d", "-", "0.9500 (1 of 2 diverged)"],
    ]
    assert accuracy_cells([*rows, row("a", 0.1, data="lfw10")], ["b"])[1][-1] == "-"
    assert shot_cells(rows, ["a"])[1] == ["a", "1.000 / 0.800 / 0.400"]
    assert chosen_cells(rows, ["a", "e"])[1:] == [["a", "knc_soft"], ["e", "-"]]
    assert seeds_text(rows) == "2 seeds"
    assert seeds_text([*rows, row("a", 0.1, seed=2)]) == "2 to 3 seeds"


def test_tests_in_words() -> None:
    rows = [row("a", 0.5), row("a", 0.7, seed=1), row("b", 0.8), row("b", 0.9, seed=1)]
    rows += [row("c", None), row("c", None, seed=1)]
    found = summarise(*score_table(rows, ["a", "b"]))
    tests = significance_text(found, [*rows, row("c", None, seed=2)])
    assert "over 2 of 3 (data set, seed) pairs" in tests
    assert "b > a" in tests
    assert "25.00" in tests  # points
    assert "not tested" in significance_text(None, [])


def test_blocks_of_data_sets_are_called_so() -> None:
    rows = [row(m, v, data=f"data {n}") for n in range(6) for m, v in (("a", 0.5), ("b", 0.4))]
    found = summarise(*score_table(rows, ["a", "b"]))
    text = significance_text(found, [*rows, row("a", 0.5, data="more"), row("a", 0.5, seed=1)])
    assert "over 6 of 8 data sets (means over common seeds): mean ranks" in text


def test_one_read_out_for_all_data_sets() -> None:
    def trained(method: str, data: str, **values: float) -> Record:
        return replace(RECORD, method=method, data=data, balanced_accuracy=values)

    records = [
        trained("a", "digits", head=0.5, ncm=0.1),
        trained("a", "digits", head=0.7, ncm=0.3),
        trained("a", "lfw10", head=0.2, ncm=0.6, knn=0.9),
        trained("b", "digits", head=1.0),
        trained("c", "digits", ncm=0.5),
        trained("c", "lfw10"),  # its loss became infinite
    ]
    found = summarise_readouts(records, ["lfw10", "digits"])
    assert found == {
        "a": {"head": pytest.approx((0.6 + 0.2) / 2), "ncm": pytest.approx((0.2 + 0.6) / 2)},
        "c": {},
    }
    assert readout_cells(found) == [
        ["one read-out for all data sets", "head", "ncm"],
        ["a", "0.4000", "0.4000"],
        ["c", "-", "-"],
    ]


def test_csv_has_a_line_a_training() -> None:
    lines = as_csv([row("a", 0.5), row("b", None)]).splitlines()
    assert lines[0] == (
        "data,method,seed,readout,balanced_accuracy,many,medium,few,images_seen,precision,seconds"
    )
    assert lines[1:] == [
        "digits,a,0,knc_soft,0.5,1.0,0.8,0.4,6000,fp32,12.0",
        "digits,b,0,knc_soft,,1.0,0.8,0.4,6000,fp32,12.0",
    ]


def test_pictures_are_drawn(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    rows = [row("softmax", 0.5), row("clmle", 0.7), row("clmle", 0.8, seed=1)]
    rows += [row("softmax", None, data="lfw10"), replace(rows[1], data="lfw10", many=None)]
    written = plot_all(rows, tmp_path / "results", "validation")
    names = [f"results-{name}.{suffix}" for name in ("accuracy", "recall") for suffix in SUFFIXES]
    assert [path.name for path in written] == names
    assert written[0].read_bytes().startswith(b"\x89PNG")
    picture = written[1].read_text()
    assert "<svg" in picture
    assert "on the validation images" in picture  # matplotlib notes each text beside its outlines


def trial(learning_rate: float, **values: float) -> Record:
    chosen = {"optim.learning_rate": learning_rate}
    return replace(RECORD, chosen=chosen, balanced_accuracy=values)


def test_the_best_of_all_trials_is_the_recipe() -> None:
    found = choose([trial(0.03), trial(0.1, head=0.8), trial(0.3, head=0.5, ncm=0.7)])
    assert found is not None
    assert (found.readout, found.balanced_accuracy) == ("head", 0.8)
    assert found.settings == {"optim.learning_rate": 0.1}
    tried = [(t["settings"]["optim.learning_rate"], t["balanced_accuracy"]) for t in found.tried]
    assert tried == [(0.03, {}), (0.1, {"head": 0.8}), (0.3, {"head": 0.5, "ncm": 0.7})]
    tied = choose([trial(0.1, head=0.5), trial(0.3, head=0.5)])
    assert tied is not None
    assert tied.settings == {"optim.learning_rate": 0.1}
    assert choose([trial(0.3)]) is None


def test_recipes_are_tied_to_what_they_were_searched_with(monkeypatch) -> None:
    checksum = search_checksum({}, "digits", "clmle")
    new = choose([trial(0.1, head=0.8)], searched_with=checksum)
    assert new is not None
    assert re.fullmatch("[0-9a-f]{12}", new.searched_with or "")
    unknown = replace(new, searched_with=None)
    found = {"digits": {"clmle": new, "softmax": unknown}, "lfw10": {"focal": new}}
    pairs = [(data, name) for data in ("digits", "lfw10") for name in METHODS]
    assert outdated(found, pairs) == {"digits": ["softmax"], "lfw10": ["focal"]}
    assert outdated(found, [("digits", "clmle_no_margins")]) == {}
    digits, clmle = DATASETS["digits"], METHODS["clmle"]
    for changed in (
        replace(digits, settings={**digits.settings, "data.shift": 2}),
        replace(digits, table_settings={"refresh.every": 30}),
        replace(digits, options={"long_tail_ratio": 10}),
        replace(digits, steps=61),
        replace(digits, learning_rates=(0.1,)),
    ):
        with monkeypatch.context() as patch:
            for module in (jobs, recipes):
                patch.setattr(module, "DATASETS", {**DATASETS, "digits": changed})
            assert outdated(found, [("digits", "clmle")]) == {"digits": ["clmle"]}
    changed = replace(clmle, settings={**clmle.settings, "loss.scale": 9.0})
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "METHODS", {**METHODS, "clmle": changed})
        assert outdated(found, [("digits", "clmle_no_margins")]) == {"digits": ["clmle"]}
    monkeypatch.setattr(recipe_rules, "_WARM_UP", 0.4)  # a rule of the trainer's recipe
    assert outdated(found, [("digits", "clmle")]) == {"digits": ["clmle"]}


def test_recipes_are_read_as_they_were_written(tmp_path) -> None:
    path = tmp_path / "recipes.json"
    assert load(path) == {}
    found = choose([trial(0.1, head=0.8)])
    assert found is not None
    save(path, {"digits": {"clmle": found}})
    assert load(path) == {"digits": {"clmle": found}}
    of_before = json.loads(path.read_text())
    del of_before["digits"]["clmle"]["searched_with"]
    path.write_text(json.dumps(of_before))
    assert load(path) == {"digits": {"clmle": replace(found, searched_with=None)}}
    path.write_text('{"digits": {"clmle": {"rate": 1}}}')
    with pytest.raises(DataError, match="holds no recipes"):
        load(path)


def test_a_family_shares_its_recipes_and_an_ablation_takes_clmles() -> None:
    for data in DATASETS:
        assert family_of(family_of(data)) == family_of(data)
    assert family_of("mnist_lt_100") == family_of("fashion_lt_10") == "fashion_lt_100"
    assert family_of("digits") == "digits"
    found = {"utk_race": {"clmle": SOFT}, "utk_age": {"softmax": SOFT}}
    assert find_recipe(found, "utk_age", "clmle") is SOFT
    assert find_recipe(found, "utk_age", "clmle_no_margins") is SOFT
    assert find_recipe(found, "utk_race", "softmax") is None
    assert find_recipe(found, "utk_gender10", "clmle") is None


def test_a_data_sets_own_recipe_comes_before_its_familys() -> None:
    at = {rate: Recipe(settings={"rate": rate}, readout="ncm", tried=[]) for rate in (1, 2)}
    found = {"utk_race": {"clmle": at[1]}, "utk_age": {"clmle": at[1], "softmax": at[2]}}
    assert find_recipe(found, "utk_age", "softmax") is at[2]
    assert trials_of(found, "utk_race", "clmle") == DATASETS["utk_race"].trials
    assert trials_of(found, "utk_age", "clmle") == [{"rate": 1}]
    assert trials_of(found, "utk_age", "softmax") == []

    def current(data: str, rate: int) -> Recipe:
        return replace(at[rate], searched_with=search_checksum(found, data, "clmle"))

    found["utk_race"]["clmle"] = current("utk_race", 1)
    found["utk_age"]["clmle"] = current("utk_age", 1)
    assert outdated(found, [("utk_age", "clmle")]) == {}
    found["utk_race"]["clmle"] = current("utk_race", 2)  # its family's settings are others now
    assert outdated(found, [("utk_age", "clmle")]) == {"utk_age": ["clmle"]}
    found["utk_age"]["clmle"] = current("utk_age", 2)
    found["utk_race"]["clmle"] = at[2]  # its family's search is not known
    assert outdated(found, [("utk_age", "clmle")]) == {"utk_race": ["clmle"]}


def test_without_a_recipe_a_method_has_the_middle_rate() -> None:
    chosen = {"optim.learning_rate": 0.1}
    assert default_recipe("digits", "softmax") == Recipe(settings=chosen, readout="head", tried=[])


class TestCosts:
    @staticmethod
    def job(method: str, data: str = "digits"):
        class Job:
            num_images = 3000

        made = Job()
        made.method, made.data = method, data  # type: ignore[attr-defined]
        return made

    def test_the_same_method_on_the_same_data_is_the_best_witness(self) -> None:
        slow = replace(RECORD, seconds=120.0)
        costs = CostEstimate([RECORD, slow, slow, trial(0.1)])
        assert costs.seconds(self.job("clmle")) == pytest.approx(60)

    def test_another_method_on_the_same_data_is_the_next_best(self) -> None:
        costs = CostEstimate([replace(RECORD, method="softmax")])
        assert costs.seconds(self.job("clmle")) == pytest.approx(6 * 1.4)
        assert costs.seconds(self.job("softmax", "lfw10")) > 0

    def test_the_longest_job_bounds_the_time(self) -> None:
        costs = CostEstimate([RECORD])
        assert costs.wall_seconds([self.job("clmle")] * 3, 2) == pytest.approx(9)
        assert costs.wall_seconds([self.job("clmle")], 2) == pytest.approx(6)
        assert costs.wall_seconds([], 2) == 0

    def test_a_slow_machine_makes_what_is_left_take_longer(self) -> None:
        costs = CostEstimate([RECORD])
        costs.tell(replace(RECORD, seconds=18.0))
        assert costs.wall_seconds([self.job("clmle")], 2) == pytest.approx(9)
        costs.tell(replace(RECORD, seconds=30.0))
        assert costs.wall_seconds([self.job("clmle")], 2) == pytest.approx(12)

    def test_durations_in_words(self) -> None:
        assert [in_words(s) for s in (45.4, 720, 12_240)] == ["45 s", "12 min", "3.4 h"]
