from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.accuracy.report.ablation_table import (
    ablation_cells,
    ablation_text,
    summarise_ablations,
)
from benchmarks.accuracy.report.results import Row
from benchmarks.accuracy.run.ablations import ABLATIONS, Ablation
from benchmarks.accuracy.run.methods import METHODS, OURS
from benchmarks.accuracy.run.suites import SUITES
from tests.benchmarks.test_claims import row
from tests.helpers import reference_significance as reference
from trainer.config.builder import build_config, with_settings
from trainer.config.recipe import derive


def test_a_factor_is_of_what_holds_in_the_end() -> None:
    config = with_settings(build_config({}), {"loss.scale": 24.0})
    ablation = Ablation(
        choice="less", factors={"loss.scale": 0.5}, settings={"loss.mean_momentum": 0.0}
    )
    assert ablation.changes(config) == {"loss.scale": 12.0, "loss.mean_momentum": 0.0}
    fewer = Ablation(choice="fewer", factors={"sampler.clusters": 0.5}).changes(config)
    assert (fewer, type(fewer["sampler.clusters"])) == ({"sampler.clusters": 10}, int)


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


def ours(rows: Sequence[Row], **others: float) -> dict[tuple[str, int], dict[str, float]]:
    """What CLMLE's records say, with the same value by other read-outs in each."""
    return {
        (r.data, r.seed): {r.readout: r.balanced_accuracy, **others}
        for r in rows
        if r.method == OURS and r.balanced_accuracy is not None
    }


def test_differences_are_paired_by_seed() -> None:
    found = summarise_ablations(ROWS, ours(ROWS))
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
        "0.75",
    ]
    assert lines[3].split() == ["scale", "halved", "-", "-", "-", "-"]


def test_clmle_is_read_as_its_variant_is() -> None:
    variant = replace(row("lfw10", "clmle_no_softmax", 0.7), readout="knc_soft")
    rows = [*ROWS, variant]
    found = summarise_ablations(rows, ours(rows, knc_soft=0.72))
    assert found is not None
    assert [entry["readout"] for entry in found] == [None, None, "knc_soft"]
    assert found[-1]["differences"]["lfw10"]["mean"] == pytest.approx(-2)
    assert ablation_cells(found)[-1][:2] == [
        "no softmax term, nor warm-up (both read by knc_soft)",
        "-2.00",
    ]
    missing = summarise_ablations(rows, ours(rows))
    assert missing is not None
    assert missing[-1]["differences"]["lfw10"]["mean"] is None


def test_differences_of_all_data_sets_are_tested_together_and_corrected_by_variant() -> None:
    places = [(data, seed) for data in ("lfw10", "utk_race") for seed in range(3)]
    values = [0.50, 0.55, 0.60, 0.65, 0.70, 0.75]
    losses = {
        "clmle_no_margins": [0.01, 0.02, 0.03, 0.04, 0.05, 0.06],
        "clmle_no_means": [-0.01, 0.02, 0.03, 0.04, 0.05, 0.06],
        "clmle_no_prior": [0.01],
    }
    rows = [row(d, "clmle", value, seed=s) for (d, s), value in zip(places, values, strict=True)]
    rows += [
        row(data, method, value - loss, seed=seed)
        for method, of_method in losses.items()
        for (data, seed), value, loss in zip(places, values, of_method, strict=False)
    ]
    found = summarise_ablations(rows, ours(rows))
    assert found is not None
    p_values = [reference.signed_rank_p(losses[name]) for name in list(losses)[:2]]
    assert [entry["p"] for entry in found] == [*map(pytest.approx, p_values), None]
    assert [entry["p_holm"] for entry in found] == [
        *map(pytest.approx, reference.holm(p_values)),
        None,
    ]
    assert p_values[0] == 2 / 2**6
    cells = ablation_cells(found)
    assert [line[-1] for line in cells] == ["Holm p", "0.0625", "0.0625", "-"]


def test_there_is_no_table_without_variants_or_clmle() -> None:
    for rows in ([], ROWS[:3], ROWS[3:6]):
        assert summarise_ablations(rows, ours(rows)) is None
    assert ablation_text(None) == ""
