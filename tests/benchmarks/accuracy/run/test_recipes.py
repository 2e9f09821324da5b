from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from benchmarks.accuracy.run import jobs, recipes
from benchmarks.accuracy.run.datasets import DATASETS
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
from tests.helpers.benchmark_records import SOFT, trial
from trainer.config import recipe_rules


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
