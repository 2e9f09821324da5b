"""The README's section "In Python" runs as it stands, block after block."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_blocks_of_the_readme_run(demo: Path) -> None:
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## In Python") :].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 4
    no_ray = "import sys\nassert not {'ray', 'deepspeed'} & set(sys.modules)\n"
    ran = subprocess.run(
        [sys.executable, "-c", "\n".join([*blocks, no_ray])],
        cwd=demo,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    shapes, classes, accuracy = ran.stdout.splitlines()
    assert shapes.startswith("(")
    assert "16, 16, 1) [0 0 0 0 0] ('0', '1'" in shapes
    assert classes.count("Classified(name=") == 3
    assert float(accuracy) > 0.5
