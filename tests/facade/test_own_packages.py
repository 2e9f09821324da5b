from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("made", ["trainer/__init__.py", "trainer.py", "clustering/__init__.py"])
def test_what_hides_a_package_is_named_in_one_line(tmp_path: Path, made: str) -> None:
    (tmp_path / made).parent.mkdir(exist_ok=True)
    (tmp_path / made).write_text("")
    ended = subprocess.run(
        [sys.executable, "-c", "import clmle"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},  # behind the working directory
        capture_output=True,
        text=True,
        check=False,
    )
    last = ended.stderr.splitlines()[-1]
    name = Path(made).parts[0]
    assert last.startswith(f"ImportError: {tmp_path / name} hides clmle's own package")
    assert "rename it, or start Python in another folder" in last
