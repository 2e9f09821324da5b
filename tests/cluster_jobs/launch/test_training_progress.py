from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

from cluster_jobs.launch import training_progress
from cluster_jobs.launch.training_progress import TrainingProgress


def row(step: int, name: str = "train/loss", value: float = 0.5) -> str:
    return json.dumps({"step": step, "name": name, "value": value, "time": 0.0}) + "\n"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def said(progress: TrainingProgress, capsys: pytest.CaptureFixture[str]) -> str:
    progress.close()
    return capsys.readouterr().err


def test_it_follows_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = tmp_path / "metrics.jsonl"
    progress = TrainingProgress(metrics, label="clmle", steps=40)
    progress.poll()
    append(metrics, row(10) + row(10, "table/version", 0.0))
    progress.poll()
    append(metrics, row(20, value=0.25) + row(20, "table/version", 10.0) + row(30)[:-9])
    progress.poll()
    line = said(progress, capsys)
    assert line.startswith("clmle: 20/40 steps (50 %)")
    assert line.endswith("loss 0.250, table 10\n")


def test_what_a_checkpoint_had_done_says_nothing_of_the_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal a bar is there before the first row is."""
    monkeypatch.setattr(training_progress, "_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    metrics = tmp_path / "metrics.jsonl"
    progress = TrainingProgress(metrics, label="clmle", steps=1000)
    progress.poll("starting")
    append(metrics, row(910))
    progress.poll()
    time.sleep(0.2)
    append(metrics, row(920))
    progress.poll()
    *_, last = said(progress, capsys).split("\r")
    rate = re.search(r"920/1000 .* ([\d.]+) steps/s", last)
    assert rate is not None, last
    assert float(rate[1]) < 60


def test_a_row_in_two_pieces_is_read_once_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    progress = TrainingProgress(metrics, label="clmle", steps=40)
    append(metrics, row(10)[:7])
    progress.poll()
    append(metrics, row(10)[7:])
    progress.poll()
    assert "10/40" in said(progress, capsys)


def test_what_a_kill_left_of_a_row_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    append(metrics, row(5)[:9])
    progress = TrainingProgress(metrics, label="clmle", steps=40)
    append(metrics, "\n" + row(10)[:9] + "\n\n" + row(20))
    progress.poll()
    assert "20/40" in said(progress, capsys)


def test_rows_of_an_earlier_attempt_do_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    append(metrics, row(30))
    progress = TrainingProgress(metrics, label="clmle", steps=40)
    progress.poll()
    (tmp_path / "new").write_text(row(20))
    os.replace(tmp_path / "new", metrics)  # the trainer goes on from step 20
    progress.poll()
    assert "20/40" in said(progress, capsys)


def test_what_is_waited_for_is_said_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    clock = [100.0]
    monkeypatch.setattr(training_progress.time, "monotonic", lambda: clock[0])
    progress = TrainingProgress(metrics, label="clmle", steps=40)
    for _ in range(60):
        clock[0] += 0.2
        progress.poll("waiting for table 0 (embedding)")
    assert capsys.readouterr().err == "clmle: waiting for table 0 (embedding)\n" * 2
    append(metrics, row(10))
    progress.poll("starting")
    progress.poll("evaluating")
    assert capsys.readouterr().err == ""
    assert progress.has_begun
    assert not progress.is_through


def test_on_a_terminal_it_stands_behind_the_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(training_progress, "_EVERY_SECONDS", 0.0)
    metrics = tmp_path / "metrics.jsonl"
    progress = TrainingProgress(metrics, label="clmle", steps=40)
    progress.poll("waiting for table 0 (embedding)")
    assert "now=waiting for table 0 (embedding)" in capsys.readouterr().err
    append(metrics, row(40))
    progress.poll("")
    progress.poll("evaluating")
    assert "now=evaluating" in said(progress, capsys)


def test_nothing_is_said_before_the_first_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = TrainingProgress(tmp_path / "metrics.jsonl", label="clmle", steps=40)
    progress.poll()
    assert said(progress, capsys) == ""
