from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from benchmarks.accuracy.report.ablation_table import (
    ablation_cells,
    ablation_text,
    summarise_ablations,
)
from benchmarks.accuracy.run.methods import OURS
from benchmarks.accuracy.run.rows import Row
from tests.helpers import reference_significance as reference
from tests.helpers.benchmark_records import row

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
