from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.accuracy.report.claims import (
    SAMPLING_AND_COSTS,
    image_error,
    summarise_claims,
)
from benchmarks.accuracy.report.claims_table import claims_text
from benchmarks.accuracy.run.methods import METHODS
from benchmarks.accuracy.run.rows import Row
from tests.helpers.benchmark_records import row

ROWS = [
    row("lfw10", "clmle", 0.80, 0.6),
    row("lfw10", "clmle", 0.90, 0.8, seed=1),
    row("lfw10", "softmax", 0.70, 0.99),
    row("lfw10", "softmax", 0.72, 0.99, seed=1),
    row("lfw10", "crt", 0.60, 0.5),
    row("lfw10", "focal", 0.65, 0.4),
    row("lfw10", "lmle", 0.86),
    row("lfw10", "clmle_plain", 0.95),
    row("lfw10", "clmle_no_means", 0.99),
    row("utk_age", "clmle", 0.50),
    row("utk_age", "softmax", 0.56),
    row("utk_age", "arcface", None),
]


def test_the_method_is_compared_with_the_best_of_each_group() -> None:
    found = summarise_claims(ROWS, ["lfw10", "utk_age"])
    assert found is not None
    faces, ages = found["datasets"]
    assert faces["ours"] == {
        "method": "clmle",
        "mean": pytest.approx(0.85),
        "sd": pytest.approx(0.1 / 2**0.5),
    }
    assert faces["classic"]["method"] == "softmax"
    assert faces["over_classic"] == pytest.approx(14)
    assert faces["cluster"] == {"method": "lmle", "mean": 0.86, "sd": None}
    assert faces["over_cluster"] == pytest.approx(-1)
    # Of sampling and costs, by few-shot recall: focal is better over all classes.
    assert faces["few"]["method"] == "crt"
    assert faces["over_few"] == pytest.approx(20)
    # Behind lmle and its own variant; an ablation does not count.
    assert (faces["rank"], faces["of"]) == (3, 6)

    assert (ages["cluster"], ages["over_cluster"]) == (None, None)
    assert (ages["few"], ages["ours_few"], ages["over_few"]) == (None, None, None)
    assert (ages["rank"], ages["of"]) == (2, 2)
    assert found["averages"] == {
        "ours": pytest.approx(0.675),
        "classic": pytest.approx(0.635),
        "over_classic": pytest.approx(4),
        "over_cluster": pytest.approx(-1),
        "over_few": pytest.approx(20),
        "rank": 2.5,
    }
    assert json.loads(json.dumps(found)) == found


def test_what_was_not_trained_is_named() -> None:
    found = summarise_claims(ROWS, ["lfw10", "utk_age", "utk_race"])
    assert found is not None
    missing = found["missing"]
    assert "lmle" in missing["utk_age"]
    assert "lmle" not in missing["lfw10"]
    assert "arcface" not in missing["utk_age"]  # was trained, to no end
    assert {"clmle", "softmax"} <= set(missing["utk_race"])
    assert not any(name.startswith("clmle_") for names in missing.values() for name in names)
    text = claims_text(found)
    assert "\nnot trained on utk_race: softmax, clmle\n" in text
    assert "not trained on utk_age, utk_race: " in text
    assert "not trained on any of these: " in text


def test_claims_in_words() -> None:
    counts = {"utk_age": np.array([100, 0, 200])}
    lines = claims_text(summarise_claims(ROWS, ["lfw10", "utk_age"], counts)).splitlines()
    assert [" ".join(line.split()) for line in lines[2:5]] == [
        "lfw10 0.8500 +- 0.0707 - softmax 0.7100 +- 0.0141 +14.00 lmle 0.8600 -1.00 "
        "0.7000 +- 0.1414 crt 0.5000 +20.00 3 of 6",
        "utk_age 0.5000 3.06 softmax 0.5600 -6.00 - - - - - 2 of 2",
        "average 0.6750 0.6350 +4.00 -1.00 +20.00 2.5",
    ]
    assert lines[5] == (
        "one classic for all data sets: softmax is the best, 0.6350 on average; clmle +4.00"
    )


def test_one_classic_for_all_must_be_trained_on_all() -> None:
    def single(*more: Row) -> dict:
        found = summarise_claims([*ROWS, *more], ["lfw10", "utk_age", "utk_race"])
        assert found is not None
        return found["single"]

    better = [row("lfw10", "triplet", 0.9), row("utk_age", "triplet", 0.9)]
    assert single()["method"] == "softmax"
    assert single(better[0])["method"] == "softmax"
    assert single(*better)["method"] == "triplet"
    assert single(*better)["over"] == pytest.approx(-22.5)
    alone = [row("utk_race", "clmle", 0.5), row("utk_race", "focal", 0.5)]
    assert single(*alone) is None


def test_the_error_of_the_images_is_that_of_drawing_them_again() -> None:
    rng = np.random.default_rng(0)
    counts, recall = np.array([5, 20, 0, 100]), 0.7
    present = counts[counts > 0]
    drawn = (rng.binomial(present, recall, size=(9999, 3)) / present).mean(axis=1)
    assert image_error(recall, counts) == pytest.approx(drawn.std(), rel=0.03)


def test_an_infinite_loss_of_ours_is_said_and_averages_are_of_the_same_data_sets() -> None:
    diverged = [row("utk_race", "clmle", None), row("utk_race", "softmax", 0.1)]
    found = summarise_claims([*ROWS, *diverged], ["lfw10", "utk_age", "utk_race"])
    assert found is not None
    assert [line["diverged"] for line in found["datasets"]] == [
        {},
        {"arcface": 1},
        {"clmle": 1},
    ]
    assert found["averages"]["ours"] == pytest.approx(0.675)
    assert found["averages"]["classic"] == pytest.approx(0.635)
    assert "clmle on utk_race: the loss became infinite with 1 seeds" in claims_text(found)


def test_a_method_that_diverged_with_a_seed_is_no_best_and_has_no_rank() -> None:
    lucky = [row("lfw10", "softmax", 0.99, 0.99), row("lfw10", "softmax", None, seed=1)]
    found = summarise_claims([*lucky, row("lfw10", "clmle", 0.8), row("lfw10", "crt", 0.7, 0.1)],
                             ["lfw10"])  # fmt: skip
    assert found is not None
    line = found["datasets"][0]
    assert (line["classic"]["method"], line["few"]["method"]) == ("crt", "crt")
    assert (line["rank"], line["of"]) == (1, 2)
    assert found["single"]["method"] == "crt"
    assert "softmax on lfw10: the loss became infinite with 1 seeds" in claims_text(found)


def test_nothing_is_claimed_without_the_method_or_anything_else() -> None:
    without = [row for row in ROWS if row.method != "clmle"]
    alone = [row for row in ROWS if row.method.startswith("clmle")]
    for rows in (without, alone, []):
        assert summarise_claims(rows, ["lfw10"]) is None
    assert claims_text(None) == ""


def test_sampling_and_costs_name_classic_methods() -> None:
    assert {METHODS[name].group for name in SAMPLING_AND_COSTS} == {"classic"}
