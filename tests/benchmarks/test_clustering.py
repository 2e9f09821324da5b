"""The benchmark of clustering runs; its numbers are not looked at."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NUMBERS = {"value": float, "name": str, "unit": str, "target": str, "detail": str}


def _run(out: Path, *cases: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.clustering", "--out", str(out)]
    ended = subprocess.run(
        [*command, "--scale", "tiny", "--only", *cases],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    written = json.loads(out.read_text())
    assert written.keys() == {"command", "machine", "scale", "figures"}
    assert written["scale"] == 0.0
    for figure in written["figures"]:
        assert {name: type(value) for name, value in figure.items()} == NUMBERS
        assert math.isfinite(figure["value"])
        assert figure["name"] in ended.stdout
    return {figure["name"]: figure for figure in written["figures"]}


def _documented(*cases: str) -> set[str]:
    """Figures of these cases that docs/clustering.md has."""
    text = (ROOT / "docs" / "clustering.md").read_text()
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| `(\w+)` \|", text, re.MULTILINE)
    return {name for names, case in rows if case in cases for name in re.findall(r"\w+", names)}


def test_cases_without_ray(tmp_path: Path) -> None:
    cases = "plan", "one_class", "neighbours"
    figures = _run(tmp_path / "figures.json", *cases)
    documented = _documented(*cases) - {"one_class_vs_dask"}  # where it is installed
    assert len(documented) == 9
    assert documented <= figures.keys()
    assert figures["plan_of_large_balance"]["value"] >= 1.0
    assert figures["one_class_objective"]["value"] > 0.5
    assert figures["neighbours_recall"]["value"] > 0.9
    assert "neighbours_time" in figures


@pytest.mark.ray
@pytest.mark.slow
def test_a_case_on_ray(tmp_path: Path) -> None:
    figures = _run(tmp_path / "new" / "figures.json", "many_classes", "mixed_classes")
    assert figures.keys() == _documented("many_classes", "mixed_classes")
