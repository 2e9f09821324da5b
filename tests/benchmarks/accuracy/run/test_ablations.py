from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks.accuracy.run.ablations import ABLATIONS, Ablation
from benchmarks.accuracy.run.methods import METHODS, OURS
from benchmarks.accuracy.run.suites import SUITES
from trainer.config.builder import build_config, with_settings
from trainer.config.recipe import derive


def test_a_factor_is_of_what_holds_in_the_end() -> None:
    config = with_settings(build_config({}), {"loss.scale": 24.0})
    ablation = Ablation(
        choice="less", factors={"loss.scale": 0.5}, settings={"loss.mean_momentum": 0.0}
    )
    assert ablation.changes(config) == {"loss.scale": 12.0, "loss.mean_momentum": 0.0}
    fewer = Ablation(choice="fewer", factors={"sampler.micro_batch_size": 0.5}).changes(config)
    assert (fewer, type(fewer["sampler.micro_batch_size"])) == (
        {"sampler.micro_batch_size": 50},
        int,
    )


def test_every_ablation_fits_clmle_with_all_of_its_choices() -> None:
    everything = {
        "loss.candidates": "table",
        "loss.mean_momentum": 0.9,
        "loss.warmup_share": 0.3,
        "loss.isda_strength": 1.0,
        "loss.logit_adjustment": 1.0,
        "loss.class_weight": "inverse",
        "sampler.sampling": "class_balanced",
        "sampler.warmup_sampling": "class_balanced",
        "cluster.max_per_class": 3,
    }
    config = with_settings(build_config({}), everything)
    assert config.ignored_settings() == []
    for name, ablation in ABLATIONS.items():
        made = with_settings(config, ablation.changes(config))
        assert made != config, name
        assert made.ignored_settings() == [], name


@pytest.mark.parametrize("counts", [[500] * 10, [30] * 150])
def test_every_ablation_fits_what_the_recipe_derives(counts: list[int]) -> None:
    derived = {item.setting: item.value for item in derive([np.array(counts)])}
    config = with_settings(build_config({}), derived)
    for ablation in ABLATIONS.values():
        made = with_settings(config, ablation.changes(config))
        assert made.ignored_settings() == [], ablation.choice


def test_ablations_are_methods_with_names_for_files_and_a_suite_of_their_own() -> None:
    for name, ablation in ABLATIONS.items():
        assert re.fullmatch(r"[a-z_]+", name)
        assert METHODS[name].group == "ablation"
        assert METHODS[name].ablation is ablation
        assert METHODS[name].settings == METHODS[OURS].settings
    assert set(SUITES["ablation"].methods) == {OURS, *ABLATIONS}
    assert not set(SUITES["full"].methods) & set(ABLATIONS)
