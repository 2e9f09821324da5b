from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster_jobs.service.pruning import BUNDLES, prune
from clustering.table import store
from data_shards.atomic import write_json
from tests.helpers.cluster_tables import tiny_table
from trainer.run.folder import RunFolder, snapshot_steps, step_name

STEPS = list(range(0, 60, 10))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Snapshots, embeddings and tables of six versions."""
    made = RunFolder(tmp_path)
    for step in STEPS:
        snapshot = made.snapshots / step_name(step)
        snapshot.mkdir(parents=True)
        write_json(snapshot / "manifest.json", {})
        (made.embeddings / step_name(step) / "digit").mkdir(parents=True)
        store.publish(made.tables, step, {"digit": tiny_table(version=step, task="digit")})
    return made


def write_checkpoint(run: RunFolder, step: int, feed: dict[str, Any]) -> Path:
    folder = run.checkpoints / step_name(step)
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", {"state": {"feed": feed}})
    return folder / "manifest.json"


def test_the_newest_three_stay(run: RunFolder) -> None:
    prune(run, 50)
    assert store.versions(run.tables) == [30, 40, 50]
    assert snapshot_steps(run) == [30, 40, 50]
    assert [folder.name for folder in run.embeddings.iterdir()] == [step_name(50)]


def test_versions_of_an_abandoned_attempt_count_for_none_of_the_newest(run: RunFolder) -> None:
    prune(run, 30)  # a run that was at step 50 resumed from a checkpoint
    assert store.versions(run.tables) == [10, 20, 30, 40, 50]
    assert snapshot_steps(run) == [10, 20, 30, 40, 50]


def test_finished_bundles_go_with_their_table(run: RunFolder) -> None:
    for step in (40, 50):
        (run.embeddings / step_name(step) / "digit" / BUNDLES).mkdir()
    prune(run, 50)
    assert [path.name for path in run.embeddings.rglob("*")] == [step_name(50), "digit"]


def test_what_a_checkpoint_would_go_on_with_stays(run: RunFolder) -> None:
    write_checkpoint(run, 15, {"version": 0, "requested": {"10": "checksum"}})
    write_checkpoint(run, 1, {"version": None, "requested": {}})
    prune(run, 50)
    assert store.versions(run.tables) == [0, 10, 30, 40, 50]
    assert snapshot_steps(run) == [0, 10, 30, 40, 50]


def test_nothing_newer_than_the_published_version_goes(run: RunFolder) -> None:
    """They are of an earlier attempt, and some checkpoint may have been meant to need them."""
    prune(run, 10)
    assert store.versions(run.tables) == STEPS
    assert snapshot_steps(run) == STEPS
    kept = sorted(folder.name for folder in run.embeddings.iterdir())
    assert kept == [step_name(step) for step in (10, *STEPS[2:])]


def test_a_task_that_still_writes_there_is_no_obstacle(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_empty(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(39, "Directory not empty", str(path))

    monkeypatch.setattr(shutil, "rmtree", not_empty)
    prune(run, 50)
    assert snapshot_steps(run) == [30, 40, 50]


def test_an_unreadable_checkpoint_keeps_everything(run: RunFolder) -> None:
    write_checkpoint(run, 15, {}).write_text("{")
    prune(run, 50)
    assert store.versions(run.tables) == STEPS
    assert snapshot_steps(run) == STEPS
