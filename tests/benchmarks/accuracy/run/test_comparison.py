"""Which training runs a comparison wants, and its results; all records are made up."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest

from benchmarks.accuracy.__main__ import compare
from benchmarks.accuracy.run import datasets, jobs, recipes
from benchmarks.accuracy.run.ablations import ABLATIONS
from benchmarks.accuracy.run.best_methods import best_methods, costliest_methods
from benchmarks.accuracy.run.comparison import Comparison
from benchmarks.accuracy.run.datasets import DATASETS, import_data
from benchmarks.accuracy.run.jobs import SEARCH_SEED, Job
from benchmarks.accuracy.run.plan import Plan
from benchmarks.accuracy.run.recipes import Recipe, save
from benchmarks.accuracy.run.records import Record, Records
from benchmarks.accuracy.run.runner import run_missing
from benchmarks.accuracy.run.search import search
from data_shards.errors import DataError
from tests.helpers.benchmark_records import row

METHODS = ("softmax", "class_balanced", "focal", "arcface", "clmle")
ACCURACY = dict(zip(METHODS, (0.5, 0.8, 0.7, 0.6, 0.4), strict=True))


def test_the_best_three_and_clmle_get_further_seeds() -> None:
    rows = [row("digits", method, value) for method, value in ACCURACY.items()]
    assert best_methods(rows, METHODS) == ["class_balanced", "focal", "arcface", "clmle"]
    assert best_methods(rows, METHODS[:4]) == ["class_balanced", "focal", "arcface"]
    rows.append(row("digits", "clmle", 1.0, seed=1))
    assert best_methods(rows, METHODS) == ["class_balanced", "focal", "clmle"]
    rows.append(row("digits", "class_balanced", None, seed=1))
    assert best_methods(rows, METHODS) == ["focal", "clmle", "arcface"]
    assert costliest_methods(["softmax", "lmle", "clmle"]) == ["lmle", "softmax", "clmle"]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(
        datasets=("digits",),
        methods=METHODS,
        num_seeds=2,
        top_seeds=4,
        data=None,
        out=tmp_path / "results.json",
        records=tmp_path / "trainings.jsonl",
        recipes=tmp_path / "recipes.json",
        split="test",
        search=False,
        at_once=1,
        dry_run=False,
        command="",
    )


def comparison_of(plan: Plan) -> Comparison:
    data = import_data("digits", None, plan.folder / "data", validation=False)
    records = Records(plan.records)
    return Comparison(plan=plan, found={}, records=records, manifests={"digits": data})


def finish(records: Records, jobs: Sequence[Job], **values: float) -> None:
    """Write records by read-out; the one that the method is meant for has its `ACCURACY`."""
    for job in jobs:
        all_ = {"head": ACCURACY.get(job.method, 0.3), "knc_margin": 0.4, "knc_soft": 0.2, **values}
        all_ |= {"knn_balanced": all_["knc_margin"]}
        record = Record(
            data=job.data,
            method=job.method,
            seed=job.seed,
            split=job.split,
            chosen=dict(job.chosen),
            balanced_accuracy=all_,
            recall_by_size={
                name: {"many": None, "medium": value, "few": value} for name, value in all_.items()
            },
            images_seen=6000,
            precision="fp32",
            seconds=6.0,
        )
        if job.config.loss.has_classifier:
            records.add(job, record)
        else:
            values_left = {name: value for name, value in all_.items() if name != "head"}
            records.add(job, replace(record, balanced_accuracy=values_left))


def test_the_log_of_a_failed_training_outlives_the_runs_after_it(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = plan.work / "digits-softmax" / "log.txt"

    def run(jobs: Sequence[Job], *, work: Path, at_once: int) -> Iterator[tuple[Job, str | Record]]:
        assert (work, at_once) == (plan.work, 1)
        for job in jobs:
            if job.method == "softmax":
                log.parent.mkdir(exist_ok=True)
                log.write_text("why")
                yield job, f"exit code 1: why ({log})"
            else:
                finish(Records(plan.records), [job])
                yield job, Records(plan.records).of([job])[0]

    monkeypatch.setattr("benchmarks.accuracy.run.runner.run_jobs", run)
    records = Records(plan.records)
    failing, well = (
        comparison_of(replace(plan, methods=(name,))).first_jobs() for name in ("softmax", "focal")
    )
    assert len(run_missing(plan, records, failing)) == len(failing)
    assert run_missing(plan, records, well) == []
    assert log.read_text() == "why"
    assert str(log) in capsys.readouterr().err


def test_a_search_is_of_families_and_of_clmle_for_its_ablations(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(replace(plan, methods=("clmle", *ABLATIONS), dry_run=True)) == 0
    assert "3 training runs, 0 of them done before" in capsys.readouterr().out
    with pytest.raises(DataError, match="fashion_lt_100 needs --data DIR"):
        search(replace(plan, datasets=("mnist_lt_100", "fashion_lt_10")))


def test_a_read_out_is_chosen_on_each_data_set_with_its_familys_rate(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = DATASETS["digits"]
    other = replace(digits, family="digits", options={"long_tail_ratio": 10})
    for module in (datasets, jobs, recipes):
        monkeypatch.setattr(module, "DATASETS", {"digits": digits, "other": other})
    done: list[tuple[str, float]] = []

    def train(plan: Plan, records: Records, wanted: Sequence[Job]) -> list[str]:
        for job in records.missing(wanted):
            rate = job.chosen["optim.learning_rate"]
            assert job.seed == SEARCH_SEED
            assert job.split == "validation"
            done.append((job.data, rate))
            # On digits the highest rate is best, read by the head; on the other set, by kNC.
            finish(records, [job], head=0.5 + rate, knc_soft=1.5 if job.data == "other" else 0.0)
        return []

    monkeypatch.setattr("benchmarks.accuracy.run.search.run_missing", train)
    asked = replace(plan, datasets=("other",), methods=("softmax",))
    assert search(replace(asked, dry_run=True)) == 0
    said = capsys.readouterr().out
    assert "3 training runs, 0 of them done before" in said
    assert "read-outs of the other data sets: 1 training runs, 0 of them done before" in said
    assert search(asked) == 0
    # 0.3 is best, so that a step beyond the grid is tried, and is the best of all.
    assert done == [("digits", rate) for rate in (0.03, 0.1, 0.3, 0.9)] + [("other", 0.9)]
    found = recipes.load(plan.recipes)
    by_data = {name: (of["softmax"].settings, of["softmax"].readout) for name, of in found.items()}
    rate = {"optim.learning_rate": 0.9}
    assert by_data == {"digits": (rate, "head"), "other": (rate, "knc_soft")}

    capsys.readouterr()
    assert compare(replace(asked, dry_run=True)) == 0
    assert "read-out that was chosen on another" not in capsys.readouterr().out
    recipes.save(plan.recipes, {"digits": found["digits"]})  # by a search that ended between
    assert compare(replace(asked, dry_run=True)) == 0
    said = capsys.readouterr().out
    assert "1 of 1 pairs have no recipe of their own and use the read-out that was chosen" in said
    recipes.save(plan.recipes, {"lfw10": found["digits"]})
    assert search(asked) == 0  # all is trained
    assert set(recipes.load(plan.recipes)) == {"lfw10", "digits", "other"}


def test_further_seeds_wait_for_the_first_and_do_not_change_the_choice(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = comparison_of(plan)
    first = comparison.first_jobs()
    finish(comparison.records, first[:-1])
    assert comparison.further_jobs(first) == []
    assert "no further seeds of the best methods before all" in capsys.readouterr().out
    assert len(comparison.further_jobs(first, guess=True)) == 8
    assert compare(replace(plan, dry_run=True)) == 0
    said = capsys.readouterr().out
    assert "10 training runs, 9 of them done before" in said
    assert "further seeds of the best methods: 8 training runs, 0 of them done before" in said

    finish(comparison.records, first[-1:])
    further = comparison.further_jobs(first)
    assert {job.method for job in further} == {"class_balanced", "focal", "arcface", "clmle"}
    assert {job.seed for job in further} == {2, 3}
    finish(comparison.records, further, head=0.0)
    assert comparison.further_jobs(first) == further

    assert compare(plan) == 0  # nothing is left to train
    written = json.loads(plan.out.read_text())
    assert written["split"] == "test"
    assert len(written["results"]) == 18
    assert written["significance"]["blocks"] == 2
    assert written["significance"]["blocks_are"] == "data sets with seeds"
    pairs = {(pair["better"], pair["worse"]): pair for pair in written["significance"]["pairs"]}
    blocks = {name: pair["blocks"] for names, pair in pairs.items() for name in names}
    assert blocks == {"softmax": 2, "class_balanced": 4, "focal": 4, "arcface": 4, "clmle": ANY}
    assert all("clmle" in names for names in pairs)
    assert set(written["readouts"]["softmax"]) == {"head", "knc_margin", "knc_soft", "knn_balanced"}
    assert written["claims"]["datasets"][0]["ours"]["mean"] == pytest.approx(0.4)
    assert written["ablations"] is None


def test_a_comparison_on_validation_images_trains_without_them(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = replace(plan, split="validation", methods=("softmax", "clmle"), top_seeds=2)
    held_back = import_data("digits", None, plan.folder / "data", validation=True)
    comparison = Comparison(
        plan=plan, found={}, records=Records(plan.records), manifests={"digits": held_back}
    )
    first = comparison.first_jobs()
    assert {job.split for job in first} == {"validation"}
    assert [job.seed for job in first] == [0, 0, 1, 1]
    finish(comparison.records, first)
    assert compare(plan) == 0  # it wants these runs, and no others
    assert "balanced accuracy, validation images" in capsys.readouterr().out
    assert json.loads(plan.out.read_text())["split"] == "validation"
    assert not (plan.folder / "data" / "digits").exists()


def test_ablations_are_read_as_clmle_is_and_left_out_where_they_change_nothing(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ("clmle", "clmle_no_margins", "clmle_no_softmax", "clmle_one_cluster")
    plan = replace(plan, methods=methods, num_seeds=1, top_seeds=1)
    chosen = {"optim.learning_rate": 0.03, "cluster.max_per_class": 1}
    recipe = Recipe(settings=chosen, readout="head", tried=[])
    save(plan.recipes, {"digits": {"clmle": recipe}})
    comparison = replace(comparison_of(plan), found={"digits": {"clmle": recipe}})
    ours, no_margins, no_softmax = comparison.first_jobs()
    assert no_margins.config.loss.margin_between == 0 < ours.config.loss.margin_between
    assert no_margins.config.optim == ours.config.optim
    finish(comparison.records, [ours, no_margins, no_softmax])

    assert compare(plan) == 0
    said = capsys.readouterr().out
    assert "clmle_one_cluster is clmle itself on digits, and is left out there" in said
    assert "with unknown ones; they are used, --search makes new ones:\n  digits: clmle\n" in said
    assert "points against clmle, seed by seed" in said
    rows = json.loads(plan.out.read_text())["results"]
    assert [row["readout"] for row in rows] == ["head", "head", "knc_soft"]
