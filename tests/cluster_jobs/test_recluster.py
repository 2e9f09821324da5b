from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster_jobs import recluster
from cluster_jobs.errors import JobError, run_job
from cluster_jobs.ray_cluster.executor import RayExecutor
from cluster_jobs.service import service
from cluster_jobs.service.executor import LocalExecutor
from cluster_jobs.service.heartbeat import Heartbeat
from cluster_jobs.service.refresh import Measured, Refresher
from cluster_jobs.service.table_requests import newest_request, waiting_requests
from clustering.table import store
from data_shards.atomic import read_json, write_json
from data_shards.errors import ConfigError, DataError
from tests.cluster_jobs.conftest import LAST_STEP, NUM_TRAIN, TinyRun
from tests.helpers.image_shards import COLUMN
from trainer.config.builder import with_settings
from trainer.config.yaml_file import load_config
from trainer.errors import TrainingError
from trainer.run.claim import claim_folder
from trainer.run.folder import step_name
from trainer.run.lock import SERVICE, claimed_alone
from trainer.state.metrics import read_metrics
from trainer.state.served_snapshot import is_served
from trainer.state.snapshot import Snapshot, read_snapshot

pytestmark = pytest.mark.ray


def refresher(tiny: TinyRun, cpus: int) -> Refresher:
    return Refresher(tiny.config, tiny.manifest, RayExecutor(tiny.config, cpus=cpus))


def start_service(tiny: TinyRun, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cluster_jobs.recluster", "--config", str(tiny.config_file)]
    return subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)


def at_work(tiny: TinyRun) -> AbstractContextManager[None]:
    """As if a service were: it holds the lock."""
    return claimed_alone(tiny.run, SERVICE, lambda: None, busy="not in this test")


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def test_a_snapshot_becomes_a_table(tiny: TinyRun, ray_cpus: int) -> None:
    snapshot = tiny.snapshot(5)
    assert not is_served(tiny.run, snapshot)
    refresher(tiny, ray_cpus).serve(snapshot)
    assert is_served(tiny.run, snapshot)
    (table,) = store.load(tiny.run.tables, 5).values()
    assert table.task == COLUMN
    assert sorted(table.member_ids) == list(range(NUM_TRAIN))
    assert table.class_sizes.tolist() == [40, 15, 6]
    assert table.stats["snapshot_checksum"] == snapshot.checksum
    for name in (
        "embed_seconds",
        "embed_images_per_second",
        "embed_and_cluster_seconds",
        "clusters/count",
    ):
        assert table.stats[name] > 0


def test_the_same_snapshot_gives_the_same_table(tiny: TinyRun, ray_cpus: int) -> None:
    """Wherever the work is done, and without what an earlier attempt left."""
    snapshot = tiny.snapshot(5)
    tables = []
    executors = [RayExecutor(tiny.config, cpus=cpus) for cpus in (1, 2)]
    for executor in (*executors, LocalExecutor(tiny.config.cluster)):
        Refresher(tiny.config, tiny.manifest, executor).serve(snapshot)
        tables.append(store.load(tiny.run.tables, 5)[COLUMN].arrays())
        for file in tiny.run.embeddings.rglob("*.json"):
            file.unlink()
    for name, array in tables[0].items():
        for other in tables[1:]:
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_finished_embeddings_are_kept_and_damaged_ones_made_again(
    tiny: TinyRun, ray_cpus: int
) -> None:
    snapshot = tiny.snapshot(5)
    refresher(tiny, ray_cpus).serve(snapshot)
    folder = tiny.run.embeddings / step_name(5) / COLUMN
    damaged = folder / "train-000001.npy"
    expected = damaged.read_bytes()
    damaged.write_bytes(expected[:-1])
    written = {path.name: path.stat().st_mtime_ns for path in folder.glob("train-*.npy")}
    refresher(tiny, ray_cpus).serve(snapshot)
    again = {path.name: path.stat().st_mtime_ns for path in folder.glob("train-*.npy")}
    changed = {name for name in written if written[name] != again[name]}
    assert changed == {name for name in written if name.startswith("train-000001.")}
    assert damaged.read_bytes() == expected
    assert store.stats(tiny.run.tables, 5)[COLUMN]["embed_reused_shards"] == 3


def test_other_weights_at_the_same_step_are_another_request(tiny: TinyRun, ray_cpus: int) -> None:
    refresher(tiny, ray_cpus).serve(tiny.snapshot(5))
    other = tiny.snapshot(5, seed=99)
    assert not is_served(tiny.run, other)
    refresher(tiny, ray_cpus).serve(other)
    assert is_served(tiny.run, other)


def test_the_request_written_last_is_the_newest(tiny: TinyRun) -> None:
    """A training run that resumed from a checkpoint asks for lower steps than its first attempt."""
    assert newest_request(tiny.run) is None
    for step in (0, 10, 5):
        tiny.snapshot(step)
        request = newest_request(tiny.run)
        assert request is not None
        assert request.folder.name == step_name(step)


def test_the_service_overtakes_and_ends_with_the_training(
    tiny: TinyRun, ray_cpus: int, capfd: pytest.CaptureFixture[str]
) -> None:
    for step in (0, 5, LAST_STEP):
        tiny.snapshot(step)
    write_json(tiny.run.report, {})
    assert recluster.main(["--config", str(tiny.config_file)]) == 0
    assert store.versions(tiny.run.tables) == [LAST_STEP], "overtaken requests are skipped"
    assert read_json(tiny.run.path / "service.json")["state"] == "done"
    rows = read_metrics(tiny.run.metrics_of("service"))
    numbers = {row["name"]: row["value"] for row in rows}
    assert {row["step"] for row in rows} == {LAST_STEP}
    assert numbers["service/queue_length"] == 3
    assert numbers["service/skipped_snapshots"] == 2
    assert numbers["service/tables_published"] == 1
    assert numbers["service/bytes_read"] > 0
    assert numbers["service/bytes_moved"] > 0
    assert numbers["service/reused_shards"] == numbers["service/reused_classes"] == 0
    for phase in ("embed", "cluster", "publish", "refresh"):
        assert numbers[f"service/{phase}_seconds"] > 0
    events = EventAccumulator(str(tiny.run.tensorboard / "service"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(numbers)
    said = capfd.readouterr().err
    assert f"table {LAST_STEP}: embed: {NUM_TRAIN}/{NUM_TRAIN} images (100 %)" in said
    assert f"table {LAST_STEP}: cluster {COLUMN}: 3/3 classes" in said


def test_waiting_requests_are_those_after_the_newest_served_one(
    tiny: TinyRun, ray_cpus: int
) -> None:
    for step in (0, 5, 10):
        tiny.snapshot(step)
        if step == 5:
            refresher(tiny, ray_cpus).serve(read_snapshot(tiny.run.snapshots / step_name(5)))
    assert [r.folder.name for r in waiting_requests(tiny.run)] == [step_name(10)]
    tiny.snapshot(5, seed=99)  # other weights
    waiting = [r.folder.name for r in waiting_requests(tiny.run)]
    assert waiting == [step_name(0), step_name(10), step_name(5)]


def test_a_second_service_is_refused(tiny: TinyRun, ray_cpus: int) -> None:
    claim_folder(tiny.run, tiny.config, fresh=True)
    with (
        at_work(tiny),
        pytest.raises(ConfigError, match=r"another clustering service .* service\.json"),
    ):
        recluster.main(["--config", str(tiny.config_file)])
    write_json(tiny.run.report, {})
    assert recluster.main(["--config", str(tiny.config_file)]) == 0


def test_a_second_service_that_is_refused_changes_no_settings(tiny: TinyRun) -> None:
    claim_folder(tiny.run, tiny.config, fresh=True)
    other = ["--config", str(tiny.config_file), "--set", "cluster.call_timeout_seconds=5"]
    before = tiny.run.config.read_bytes()
    with (
        at_work(tiny),
        pytest.raises(ConfigError, match="another clustering service"),
    ):
        recluster.main(other)
    assert tiny.run.config.read_bytes() == before


def test_a_service_may_go_on_with_other_free_settings(tiny: TinyRun, ray_cpus: int) -> None:
    claim_folder(tiny.run, tiny.config, fresh=True)
    write_json(tiny.run.report, {})
    with at_work(tiny):
        pass  # an earlier one
    other = ["--config", str(tiny.config_file), "--set", "cluster.call_timeout_seconds=5"]
    assert recluster.main(other) == 0
    assert load_config(tiny.run.config).cluster.call_timeout_seconds == 5


@pytest.mark.parametrize("name", ["holiday.jpg", "config.yaml"])
def test_a_folder_of_something_else_stays_as_it_is(tiny: TinyRun, name: str) -> None:
    tiny.run.path.mkdir()
    (tiny.run.path / name).write_text("of: something else")
    with pytest.raises(ConfigError):
        recluster.main(["--config", str(tiny.config_file)])
    assert os.listdir(tiny.run.path) == [name]
    assert (tiny.run.path / name).read_text() == "of: something else"


def test_every_task_renews_the_heartbeat(
    tiny: TinyRun, ray_cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Heartbeat.progress
    renewed = []

    def counts(heartbeat: Heartbeat) -> None:
        renewed.append(heartbeat.state)
        progress(heartbeat)

    monkeypatch.setattr(Heartbeat, "progress", counts)
    tiny.snapshot(5)
    assert recluster.main(["--config", str(tiny.config_file), "--once"]) == 0
    assert renewed.count("embedding") == len(tiny.manifest.split("train").shards)
    assert renewed.count("clustering") >= 2, "a check of the shards, and a bundle"
    assert set(renewed) == {"embedding", "clustering", "publishing"}


@pytest.mark.parametrize("workers", [["--workers", "3"], []], ids=["given", "of Ray"])
def test_the_plan_needs_no_snapshot(
    tiny: TinyRun, ray_cpus: int, capsys: pytest.CaptureFixture[str], workers: list[str]
) -> None:
    assert recluster.main(["--config", str(tiny.config_file), "--plan", *workers]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"task {COLUMN}")
    assert f"{NUM_TRAIN} samples of 3 classes" in said
    assert ("Ray was not asked" in said) == bool(workers)
    assert not tiny.run.path.exists()


def test_workers_are_for_the_plan_alone(tiny: TinyRun, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--workers", "3"], ["--plan", "--workers", "0"]):
        with pytest.raises(SystemExit):
            recluster.main(["--config", str(tiny.config_file), *options])
        assert "--workers needs --plan and a number >= 1, got " in capsys.readouterr().err


def test_a_killed_service_is_caught_up_with(tiny: TinyRun, ray_cpus: int) -> None:
    """Killed in the middle of a refresh; the next one serves the newest, and ends at the last."""
    tiny.snapshot(0)
    first = start_service(tiny)
    wait_until(lambda: list(tiny.run.embeddings.rglob("*.npy")))
    first.kill()
    first.communicate()
    tiny.snapshot(5)
    second = start_service(tiny)
    wait_until(lambda: 5 in store.versions(tiny.run.tables))
    assert second.poll() is None
    tiny.snapshot(LAST_STEP)
    wait_until(lambda: LAST_STEP in store.versions(tiny.run.tables))
    write_json(tiny.run.report, {})
    _, said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    assert store.latest_version(tiny.run.tables) == LAST_STEP


def test_a_last_snapshot_of_an_earlier_attempt_is_no_end(tiny: TinyRun, ray_cpus: int) -> None:
    tiny.snapshot(LAST_STEP)
    service = start_service(tiny)
    wait_until(lambda: LAST_STEP in store.versions(tiny.run.tables))
    tiny.snapshot(5)  # the training run resumed from an older checkpoint
    wait_until(lambda: 5 in store.versions(tiny.run.tables))
    assert service.poll() is None
    service.terminate()
    service.communicate(timeout=10)


class Overtaken(Refresher):
    """Fails with the first snapshot, during whose embedding something else happens."""

    meanwhile: Callable[[], object]
    failed = False

    def serve(self, snapshot: Snapshot) -> Measured:
        if not self.failed:
            self.failed = True
            self.meanwhile()
            raise DataError("the weights were replaced while they were in use")
        return super().serve(snapshot)


def test_a_snapshot_that_is_replaced_while_at_work_is_served_again(
    tiny: TinyRun, ray_cpus: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def meanwhile() -> None:
        tiny.snapshot(5, seed=99)
        write_json(tiny.run.report, {})

    monkeypatch.setattr(Overtaken, "meanwhile", staticmethod(meanwhile), raising=False)
    monkeypatch.setattr(service, "Refresher", Overtaken)
    tiny.snapshot(5)
    assert recluster.main(["--config", str(tiny.config_file)]) == 0
    assert is_served(tiny.run, read_snapshot(tiny.run.snapshots / step_name(5)))
    assert "table 5 is given up for a newer snapshot: the weights were replaced" in caplog.text


def test_a_failure_with_the_newest_snapshot_ends_the_service(
    tiny: TinyRun, ray_cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Overtaken, "meanwhile", staticmethod(lambda: None), raising=False)
    monkeypatch.setattr(service, "Refresher", Overtaken)
    tiny.snapshot(5)
    with pytest.raises(DataError, match="were replaced"):
        recluster.main(["--config", str(tiny.config_file)])


def test_sigterm_ends_the_service_at_once_and_well(tiny: TinyRun, ray_cpus: int) -> None:
    service = start_service(tiny)
    heartbeat = tiny.run.path / "service.json"
    wait_until(heartbeat.exists)
    assert read_json(heartbeat)["pid"] == service.pid
    service.send_signal(signal.SIGTERM)
    _, said = service.communicate(timeout=10)
    assert service.returncode == 0, said
    assert read_json(heartbeat)["state"] == "stopped"


def test_a_finished_training_needs_no_service(tiny: TinyRun, ray_cpus: int) -> None:
    claim_folder(tiny.run, tiny.config, fresh=True)
    refresher(tiny, ray_cpus).serve(tiny.snapshot(LAST_STEP))
    write_json(tiny.run.report, {})
    assert recluster.main(["--config", str(tiny.config_file)]) == 0


def test_once_serves_the_newest_and_does_nothing_if_that_is_done(
    tiny: TinyRun, ray_cpus: int
) -> None:
    command = ["--config", str(tiny.config_file), "--once"]
    with pytest.raises(JobError, match="no snapshot; start the training first"):
        recluster.main(command)
    tiny.snapshot(5)
    assert recluster.main(command) == 0
    published = store.stats(tiny.run.tables, 5)
    assert recluster.main(command) == 0
    assert store.stats(tiny.run.tables, 5) == published


def test_a_damaged_image_shard_is_named(
    tiny: TinyRun, ray_cpus: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for path in tiny.manifest.folder.iterdir():
        (shards / path.name).write_bytes(path.read_bytes())
    content = bytearray((shards / "train-000002.tar").read_bytes())
    content[700] ^= 1
    (shards / "train-000002.tar").write_bytes(content)
    tiny.snapshot(5)
    command = ["--config", str(tiny.config_file), "--once", "--set", f"data.shards={shards}"]
    tiny.run.config.unlink(missing_ok=True)
    assert run_job(recluster.main, command) == 2
    said = capsys.readouterr().err
    assert "train-000002.tar" in said
    assert "import again" in said
    assert "Traceback" not in said
    assert read_json(tiny.run.path / "service.json")["state"] == "failed"


def test_a_damaged_snapshot_is_named(tiny: TinyRun, ray_cpus: int) -> None:
    weights = tiny.snapshot(5).path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(TrainingError, match="weights.safetensors is damaged"):
        recluster.main(["--config", str(tiny.config_file), "--once"])


def test_other_shards_than_the_snapshots_are_refused(tiny: TinyRun, ray_cpus: int) -> None:
    snapshot = tiny.snapshot(5)
    other = type(snapshot)(**{**vars(snapshot), "data_checksum": "0" * 64})
    with pytest.raises(DataError, match="trained on other shards"):
        refresher(tiny, ray_cpus).serve(other)


def test_a_folder_of_another_run_is_refused(tiny: TinyRun) -> None:
    claim_folder(tiny.run, with_settings(tiny.config, {"loss.scale": 8.0}), fresh=False)
    with pytest.raises(ConfigError, match="already holds another run"):
        recluster.main(["--config", str(tiny.config_file)])
    assert os.listdir(tiny.run.path) == [tiny.run.config.name]


def test_missing_shards_are_an_error_before_ray_starts(tiny: TinyRun) -> None:
    command = ["--config", str(tiny.config_file), "--set", "data.shards=/nowhere"]
    with pytest.raises(DataError, match="clmle import"):
        recluster.main(command)


def test_dry_run_prints_the_configuration_alone(
    tiny: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recluster.main(["--config", str(tiny.config_file), "--dry-run"]) == 0
    assert capsys.readouterr().out == tiny.config_file.read_text()
    assert not os.path.exists(tiny.run.path)
