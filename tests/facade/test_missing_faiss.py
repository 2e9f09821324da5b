"""Without FAISS, what would cluster says so in one line before anything starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import clmle
from clustering.errors import ClusterError
from tests.helpers.tiny_data import write_tiny_data

HIDDEN = "import sys; sys.modules['faiss'] = None; "
CLI = HIDDEN + "from cluster_jobs import cli; cli.entry()"
MODULE = HIDDEN + "import runpy; runpy.run_module('cluster_jobs.recluster', run_name='__main__')"


@pytest.mark.parametrize(
    "job", [(CLI, "run"), (CLI, "recluster"), (MODULE,)], ids=["run", "recluster", "module"]
)
def test_a_verb_that_clusters_ends_with_one_line(tmp_path: Path, job: tuple[str, ...]) -> None:
    shards, run = tmp_path / "shards", tmp_path / "run"
    write_tiny_data(shards)
    settings = ["baselines={}", f"run.folder={run}", f"data.shards={shards}"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-c", *job, "--config", "long_tail", *overrides]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: clustering needs FAISS, which is not installed")
    assert "clmle[cpu]" in ended.stderr
    assert "clmle[gpu]" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not run.exists()


def test_k_means_names_the_extras_when_it_is_imported() -> None:
    command = [sys.executable, "-c", HIDDEN + "import clustering.kmeans.backends"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "FaissMissingError: clustering needs FAISS" in ended.stderr.splitlines()[-1]


def test_clusters_of_arrays_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ClusterError, match="clustering needs FAISS"):
        clmle.cluster(np.ones((4, 2)), np.zeros(4, int))
