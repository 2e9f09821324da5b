"""The snapshot that is taken is the newest that can be used; no other is read for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clustering.table import store
from data_shards.atomic import sha256_of
from tests.helpers.cluster_tables import tiny_table
from tests.helpers.training import NETWORK
from trainer.errors import TrainingError, UnusableSnapshot
from trainer.run.folder import SNAPSHOT_WEIGHTS, RunFolder, step_name
from trainer.state.served_snapshot import identity, served_snapshot
from trainer.state.snapshot import Snapshot, write_snapshot


def write(run: RunFolder, step: int, *, seed: int) -> Snapshot:
    torch.manual_seed(seed)
    state = NETWORK.build().state_dict()
    return write_snapshot(run, step, state=state, network=NETWORK, data_checksum="of the data")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Snapshots of steps 5 to 20; the last has no tables, another was replaced after its own."""
    run = RunFolder(tmp_path / "run")
    for step in (5, 10, 15):
        stats = identity(write(run, step, seed=step))
        table = tiny_table(version=step, task="shape")
        store.publish(run.tables, step, {"shape": replace(table, stats=stats)})
    write(run, 15, seed=0)
    write(run, 20, seed=20)
    return run


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


def test_only_the_weights_that_are_taken_are_read(run: RunFolder, read: list[str]) -> None:
    snapshot = served_snapshot(None, run)
    assert snapshot.path == (run.snapshots / step_name(10)).absolute()
    assert read == [step_name(10)]


def test_a_step_that_is_named_is_the_only_one_read(run: RunFolder, read: list[str]) -> None:
    assert served_snapshot("5", run).step == 5
    assert read == [step_name(5)]


def test_damaged_weights_are_skipped_unless_they_are_named(run: RunFolder) -> None:
    weights = run.snapshots / step_name(10) / SNAPSHOT_WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert served_snapshot(None, run).step == 5
    with pytest.raises(TrainingError, match="is damaged"):
        served_snapshot("10", run)
    for step in ("15", "20"):
        with pytest.raises(UnusableSnapshot, match="are not published .* that have tables: 5$"):
            served_snapshot(step, run)


def test_those_that_work_are_named_in_order(run: RunFolder) -> None:
    with pytest.raises(
        UnusableSnapshot, match="no snapshot of step 7; .* that have tables: 5, 10$"
    ):
        served_snapshot("7", run)
