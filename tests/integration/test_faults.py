"""The benchmark of random faults runs, judges and reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import faults

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_an_embedding_worker_and_the_service_are_killed_at_random(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--runs", "2", "--scale", "0.1", "--seed", "3", "--out", str(tmp_path / "out.json")]
    assert faults.main(command) == 0
    said = capsys.readouterr().out
    assert "2 runs: 2 same table, 0 clear failures" in said
    figures = json.loads((tmp_path / "out.json").read_text())["figures"]
    assert {figure["name"]: figure["value"] for figure in figures}["faults_hung"] == 0
    assert figures[0].keys() == {"name", "value", "unit", "target", "detail"}
