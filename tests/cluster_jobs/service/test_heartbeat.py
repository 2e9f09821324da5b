from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster_jobs.service import heartbeat
from cluster_jobs.service.heartbeat import Heartbeat, HeartbeatWatch, patience_seconds
from clustering.config import ClusterConfig
from data_shards.atomic import read_json
from trainer.run.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(heartbeat, "RENEWED_SECONDS", 0.05)
    return RunFolder(tmp_path)


def written(run: RunFolder) -> float:
    return float(read_json(run.path / "service.json")["time"])


def test_it_is_renewed_while_a_long_task_runs(run: RunFolder) -> None:
    beat = Heartbeat(run)
    with beat.renewed(60.0):
        beat("embedding", 5)
        first = written(run)
        deadline = time.monotonic() + 10
        while written(run) == first:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert read_json(run.path / "service.json")["state"] == "embedding"


def test_it_is_not_renewed_for_a_service_that_hangs(run: RunFolder) -> None:
    beat = Heartbeat(run)
    with beat.renewed(0.0):
        beat("embedding", 5)
        first = written(run)
        time.sleep(0.5)
        assert written(run) == first


def test_it_is_renewed_while_one_state_makes_progress(run: RunFolder) -> None:
    """A partitioned class takes many calls, each as long as it may, before the state changes."""
    patience = 1.0
    beat = Heartbeat(run)
    with beat.renewed(patience):
        beat("clustering", 5)
        begun = time.time()
        while time.time() < begun + 2 * patience:
            beat.progress()
            time.sleep(0.02)
        assert written(run) > begun + 1.5 * patience
    assert read_json(run.path / "service.json")["state"] == "clustering"


def test_progress_of_what_has_ended_changes_nothing(run: RunFolder) -> None:
    beat = Heartbeat(run)
    beat("failed")
    first = read_json(run.path / "service.json")
    beat.progress()
    assert read_json(run.path / "service.json") == first


def test_a_task_may_use_all_its_attempts() -> None:
    config = ClusterConfig(call_timeout_seconds=10.0, max_retries=3)
    assert patience_seconds(config) == 40.0


def test_the_watch_measures_silence(run: RunFolder) -> None:
    beat, watch = Heartbeat(run), HeartbeatWatch(run)
    beat("embedding", 5)
    time.sleep(0.2)
    watch.poll()
    assert (watch.state, watch.version) == ("embedding", 5)
    assert watch.silent_seconds < 0.2
    time.sleep(0.2)
    watch.poll()
    assert watch.silent_seconds >= 0.2
    watch.clear()
    watch.poll()
    assert watch.state is None
    assert watch.silent_seconds < 0.2


def test_a_full_disk_hides_nothing_else(
    run: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    beat = Heartbeat(RunFolder(tmp_path / "gone"))
    beat("failed")
    assert "no sign of life" in caplog.text
    assert beat.state == "failed"
