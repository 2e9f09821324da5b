"""The whole benchmark on the digits that ship with scikit-learn."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.accuracy.__main__ import main
from benchmarks.accuracy.run import recipes
from benchmarks.accuracy.run.datasets import DATASETS
from benchmarks.accuracy.run.methods import METHODS

ROOT = Path(__file__).parents[3]
TIMEOUT = 120
READOUT_ORDER = {"head", "ncm", "knc_margin", "knc_soft", "knn", "knn_balanced"}


def arguments(out: Path, *more: str) -> list[str]:
    fixed = ["--suite", "smoke", "--seeds", "1", "--jobs", "1", "--out", str(out)]
    return [*fixed, "--recipes", str(out.parent / "recipes.json"), *more]


def records_of(out: Path) -> list[str]:
    records = out.parent / "trainings.jsonl"
    return records.read_text().splitlines() if records.exists() else []


def killed_after_the_first_run(out: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.accuracy", *arguments(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=2)
    deadline = time.monotonic() + TIMEOUT
    try:
        # The second run has begun when its folder is there.
        while not records_of(out) or not any(out.parent.glob("work/digits-clmle-*/run")):
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_killed_benchmark_continues_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    killed_after_the_first_run(out)
    (first,) = records_of(out)
    assert not out.exists()

    assert main(arguments(out)) == 0
    printed = capsys.readouterr().out
    assert "2 training runs, 1 of them done before; the rest will take about" in printed
    assert re.search(r"\[1/1\] digits, clmle, seed 0: \d+ s; about 0 s left", printed)
    assert records_of(out)[0] == first
    assert not (tmp_path / "work").exists()

    results = json.loads(out.read_text())["results"]
    assert [(row["data"], row["method"], row["seed"]) for row in results] == [
        ("digits", "softmax", 0),
        ("digits", "clmle", 0),
    ]
    for row in results:
        assert row["images_seen"] == 6000
        assert row["seconds"] > 0
        for name in ("balanced_accuracy", "many", "medium", "few"):
            assert 0.5 < row[name] <= 1  # chance is 0.1
    assert [row["readout"] for row in results] == [
        METHODS[method].readout for method in ("softmax", "clmle")
    ]
    lines = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    assert [float(line["few"]) for line in lines] == [row["few"] for row in results]

    assert main(arguments(out)) == 0
    assert "2 training runs, 2 of them done before" in capsys.readouterr().out
    assert json.loads(out.read_text())["results"] == results


@pytest.mark.slow
def test_a_search_reads_validation_images_and_its_choice_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results.json"
    softmax = ("--methods", "softmax")
    # One rate that learns, one that cannot; the first is an end of the grid.
    tried = replace(DATASETS["digits"], learning_rates=(0.1, 1e6))
    monkeypatch.setattr(recipes, "DATASETS", {"digits": tried})
    assert main(arguments(out, *softmax, "--search")) == 0
    recipe = json.loads((tmp_path / "recipes.json").read_text())["digits"]["softmax"]
    assert recipe["settings"] == {"optim.learning_rate": 0.1}
    values, diverged, beyond = (trial["balanced_accuracy"] for trial in recipe["tried"])
    assert diverged == {}
    assert recipe["tried"][2]["settings"]["optim.learning_rate"] == pytest.approx(1e-8)
    assert max(beyond.values()) < recipe["balanced_accuracy"]
    assert set(values) >= READOUT_ORDER
    assert recipe["balanced_accuracy"] == max(values.values()) == values[recipe["readout"]]
    assert {json.loads(line)["split"] for line in records_of(out)} == {"validation"}
    assert not out.exists()

    assert main(arguments(out, *softmax, "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert "have no recipe" not in printed
    assert "recipes in" not in printed  # none is outdated
    assert "1 training runs, 0 of them done before" in printed


def test_mistakes_are_reported_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path / "a.json", "--datasets", "lfw10")) == 2
    assert "lfw10 needs --data DIR" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(arguments(tmp_path / "a.json", "--seeds", "0"))
    assert "must be >= 1, got 0" in capsys.readouterr().err
    for split in ("test", "validation"):
        with pytest.raises(SystemExit):
            main(arguments(tmp_path / "a.json", "--search", "--split", split))
        assert "not allowed with argument --search" in capsys.readouterr().err


def test_one_benchmark_at_a_time_in_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    with (tmp_path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(arguments(tmp_path / "a.json", "--dry-run")) == 2
    assert "another benchmark is running" in capsys.readouterr().err
    assert os.listdir(tmp_path) == [".lock"]


def test_what_is_named_twice_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = ["--datasets", "digits", "digits", "--methods", "softmax", "clmle", "softmax"]
    assert main(arguments(tmp_path / "a.json", *twice, "--dry-run")) == 0
    assert "2 training runs, 0 of them done before" in capsys.readouterr().out
