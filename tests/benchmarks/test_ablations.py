from __future__ import annotations

import re

import pytest

from benchmarks.accuracy.ablation_table import ablation_text, summarise_ablations
from benchmarks.accuracy.ablations import ABLATIONS, Ablation
from benchmarks.accuracy.methods import METHODS, OURS
from benchmarks.accuracy.suites import SUITES
from tests.benchmarks.test_claims import row
from trainer.config_file import build_config, with_settings


def test_a_factor_is_of_what_holds_in_the_end() -> None:
    config = with_settings(build_config({}), {"loss.scale": 24.0})
    ablation = Ablation(
        choice="less", factors={"loss.scale": 0.5}, settings={"loss.mean_momentum": 0.0}
    )
    assert ablation.changes(config) == {"loss.scale": 12.0, "loss.mean_momentum": 0.0}


def test_every_ablation_fits_clmle_with_all_of_its_choices() -> None:
    everything = {
        "loss.candidates": "table",
        "loss.mean_momentum": 0.9,
        "loss.clmle_from": 0.3,
        "loss.logit_adjustment": 1.0,
        "loss.class_weight": "inverse",
        "sampler.sampling": "class_balanced",
        "sampler.warmup_sampling": "class_balanced",
    }
    config = with_settings(build_config({}), everything)
    assert config.ignored_settings() == []
    for name, ablation in ABLATIONS.items():
        made = with_settings(config, ablation.changes(config))
        assert made != config, name
        assert made.ignored_settings() == [], name


def test_ablations_are_methods_with_names_for_files_and_a_suite_of_their_own() -> None:
    for name, ablation in ABLATIONS.items():
        assert re.fullmatch(r"[a-z_]+", name)
        assert METHODS[name].group == "ablation"
        assert METHODS[name].ablation is ablation
        assert METHODS[name].settings == METHODS[OURS].settings
    assert set(SUITES["ablation"].methods) == {OURS, *ABLATIONS}
    assert not set(SUITES["full"].methods) & set(ABLATIONS)


ROWS = [
    row("lfw10", "clmle", 0.80),
    row("lfw10", "clmle", 0.90, seed=1),
    row("lfw10", "clmle", 0.10, seed=2),
    row("lfw10", "clmle_no_margins", 0.78),
    row("lfw10", "clmle_no_margins", 0.86, seed=1),
    row("lfw10", "clmle_no_margins", None, seed=2),
    row("utk_race", "clmle", 0.50),
    row("utk_race", "clmle_no_margins", 0.53),
    row("utk_race", "clmle_half_scale", None),
]


def test_differences_are_paired_by_seed() -> None:
    found = summarise_ablations(ROWS)
    assert found is not None
    margins, scale = found
    assert (margins["method"], margins["choice"]) == ("clmle_no_margins", "no margins")
    assert margins["differences"] == {
        "lfw10": {"mean": pytest.approx(-3), "sd": pytest.approx(2**0.5), "seeds": 2},
        "utk_race": {"mean": pytest.approx(3), "sd": None, "seeds": 1},
    }
    assert margins["all"]["mean"] == pytest.approx(-1)
    assert scale["all"] == {"mean": None, "sd": None, "seeds": 0}
    lines = ablation_text(found).splitlines()
    assert re.split(r"\s{2,}", lines[2]) == [
        "no margins",
        "-3.00 +- 1.41",
        "+3.00",
        "-1.00 +- 3.61",
    ]
    assert lines[3].split() == ["scale", "halved", "-", "-", "-"]


def test_there_is_no_table_without_variants_or_clmle() -> None:
    for rows in ([], ROWS[:3], ROWS[3:6]):
        assert summarise_ablations(rows) is None
    assert ablation_text(None) == ""
