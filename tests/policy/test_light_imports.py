"""What must start at once loads none of the heavy packages: asked of a fresh process."""

import subprocess
import sys

import pytest

from tests.policy.product_code import MODULES, ROOT

HEAVY = ("torch", "faiss", "ray", "deepspeed")
MODULES_WITHOUT_TORCH = [m for m in MODULES if m.startswith(("trainer.config.", "trainer.run."))]
STARTS = {
    "every file of trainer/config and trainer/run": f"import {', '.join(MODULES_WITHOUT_TORCH)}",
    "the registry of losses": "import trainer.losses.registry",
    "clmle --help": "from cluster_jobs.cli import main; assert main(['--help']) == 0",
    "import clmle": "import clmle",
    "import clustering": "import clustering",
    "import data_shards": "import data_shards",
}


@pytest.mark.parametrize("start", STARTS)
def test_it_loads_nothing_heavy(start):
    program = f"{STARTS[start]}\nimport sys\nprint('loaded:', *set(sys.modules) & set({HEAVY}))"
    run = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_there_is_something_to_check():
    assert {"trainer.config.run_config", "trainer.run.folder"} <= set(MODULES_WITHOUT_TORCH)
    assert len(MODULES_WITHOUT_TORCH) > 15
