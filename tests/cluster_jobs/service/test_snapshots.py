"""The snapshot that a job takes is the newest that can be used; no other is read for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster_jobs.errors import JobError
from cluster_jobs.service.snapshots import served_snapshot
from cluster_jobs.service.table_requests import identity
from clustering.table import store
from data_shards.atomic import sha256_of
from tests.cluster_jobs.conftest import TinyRun
from tests.helpers.cluster_tables import tiny_table
from trainer.config.errors import TrainingError
from trainer.run.folder import SNAPSHOT_WEIGHTS, step_name


@pytest.fixture
def four(tiny: TinyRun) -> TinyRun:
    """Snapshots of steps 5 to 20; the last has no tables, another was replaced after its own."""
    for step in (5, 10, 15):
        stats = identity(tiny.snapshot(step))
        table = tiny_table(version=step, task="shape")
        store.publish(tiny.run.tables, step, {"shape": replace(table, stats=stats)})
    tiny.snapshot(15, seed=0)
    tiny.snapshot(20)
    return tiny


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The snapshots whose weights were read, in order."""
    steps: list[str] = []

    def noted(path: Path) -> str:
        if path.name == SNAPSHOT_WEIGHTS:
            steps.append(path.parent.name)
        return sha256_of(path)

    monkeypatch.setattr("trainer.state.snapshot.sha256_of", noted)
    return steps


def test_only_the_weights_that_are_taken_are_read(four: TinyRun, read: list[str]) -> None:
    snapshot = served_snapshot(None, four.run)
    assert snapshot.path == (four.run.snapshots / step_name(10)).absolute()
    assert read == [step_name(10)]


def test_a_step_that_is_named_is_the_only_one_read(four: TinyRun, read: list[str]) -> None:
    assert served_snapshot("5", four.run).step == 5
    assert read == [step_name(5)]


def test_damaged_weights_are_passed_over_unless_they_are_named(four: TinyRun) -> None:
    weights = four.run.snapshots / step_name(10) / SNAPSHOT_WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert served_snapshot(None, four.run).step == 5
    with pytest.raises(TrainingError, match="is damaged"):
        served_snapshot("10", four.run)
    for step in ("15", "20"):
        with pytest.raises(JobError, match="are not published .* that have tables: 5$"):
            served_snapshot(step, four.run)


def test_those_that_work_are_named_in_order(four: TinyRun) -> None:
    with pytest.raises(JobError, match="no snapshot of step 7; .* that have tables: 5, 10$"):
        served_snapshot("7", four.run)
