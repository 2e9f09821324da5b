"""Training with a clustering service that is late, dead or started again."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from clustering.table import store
from data_shards.atomic import read_json
from tests.helpers.local_service import LocalService
from tests.helpers.training import series, succeeded, tiny_config, train_ranks
from trainer.losses.objective import Objective
from trainer.run.folder import RunFolder, checkpoint_steps, snapshot_steps
from trainer.runtime.table_feed import TableFeed

pytestmark = pytest.mark.slow


def wait_until(condition, *, what, seconds=40):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def with_gates(rank, folder, steps):
    """Block training in some steps until the test has opened their gate."""
    compute = Objective.__call__

    def gated(self, outputs, sample_ids, step):
        if step in steps:
            (folder / f"arrived_{step}").touch()
            wait_until((folder / f"gate_{step}").exists, what=f"the gate of step {step}")
        return compute(self, outputs, sample_ids, step)

    Objective.__call__ = gated


def open_gate(folder, step):
    (folder / f"gate_{step}").touch()


def test_training_outlives_a_dead_service_and_catches_up_with_a_new_one(tmp_path, tiny_shards):
    config = tiny_config(
        tmp_path / "run",
        tiny_shards,
        refresh__every=4,
        refresh__on_late="continue",
        train__steps=28,
    )
    run = RunFolder(config.run_path)
    service = LocalService(config)
    with ThreadPoolExecutor(1) as pool:
        gates = (tmp_path, (5, 22))
        training = pool.submit(train_ranks, config, prepare=with_gates, arguments=gates)
        service.start()
        wait_until(lambda: store.latest_version(run.tables) == 4, what="table 4")
        service.stop()
        open_gate(tmp_path, 5)
        wait_until((tmp_path / "arrived_22").exists, what="step 22, without table 20")
        service.start()
        wait_until(lambda: store.latest_version(run.tables) == 20, what="table 20")
        open_gate(tmp_path, 22)
        (text,) = succeeded(training.result())
        service.stop()
    for step, late in ((10, 8), (14, 12), (18, 16), (22, 20)):
        assert f"step {step}: table {late} is late; training continues with table 4" in text
    assert service.served[:3] == [0, 4, 20], "newer requests overtake older ones"
    report = read_json(run.report)
    assert report["table_switches"][:3] == [[0, 0], [6, 4], [23, 20]]
    assert report["table_version"] == 28, "the final evaluation has tables of the last weights"
    versions = series(config, "table/version")
    assert [versions[step] for step in (6, 7, 23, 24)] == [0, 4, 4, 20]


def test_training_ends_with_an_older_table_when_the_service_stays_dead(tmp_path, tiny_shards):
    config = tiny_config(
        tmp_path / "run",
        tiny_shards,
        refresh__on_late="continue",
        refresh__timeout_seconds=5,
        train__steps=12,
    )
    run = RunFolder(config.run_path)
    service = LocalService(config)
    with ThreadPoolExecutor(1) as pool:
        gates = (tmp_path, (3,))
        training = pool.submit(train_ranks, config, prepare=with_gates, arguments=gates)
        service.start()
        wait_until(lambda: store.latest_version(run.tables) == 0, what="table 0")
        service.stop()
        open_gate(tmp_path, 3)
        (text,) = succeeded(training.result())
    assert f"no cluster table 12 in {run.tables} after 5 s" in text
    assert "evaluating with table 0" in text
    report = read_json(run.report)
    assert report["table_switches"] == [[0, 0]]
    assert report["table_version"] == 0
    assert set(report["balanced_accuracy"]) == {
        "knc_margin",
        "knc_soft",
        "knc_balanced",
        "ncm",
        "blend",
        "head",
    }


def test_a_table_as_late_as_may_be_is_not_overtaken_by_the_next_request(tmp_path, tiny_shards):
    config = tiny_config(
        tmp_path / "run",
        tiny_shards,
        refresh__every=5,
        refresh__lag=5,
        refresh__timeout_seconds=10,
        train__steps=11,
    )
    run = RunFolder(config.run_path)

    def be_late(step):
        """Serve the request of step 5 only when that of step 10 would be there."""
        deadline = time.monotonic() + 2
        while step == 5 and 10 not in snapshot_steps(run) and time.monotonic() < deadline:
            time.sleep(0.02)

    with LocalService(config, before_serving=be_late) as service:
        succeeded(train_ranks(config))
    assert service.served[:2] == [0, 5]
    assert read_json(run.report)["table_switches"] == [[0, 0], [10, 5], [11, 11]]


def sigterm_while_waiting(rank, at_rank):
    wait_on = TableFeed._stop_if_requested

    def told(self, version, step):
        if rank == at_rank:
            os.kill(os.getpid(), signal.SIGTERM)
        wait_on(self, version, step)

    TableFeed._stop_if_requested = told


def test_ranks_that_wait_for_a_table_can_be_stopped_and_resume(tmp_path, tiny_shards):
    config = tiny_config(tmp_path / "run", tiny_shards, train__steps=3)
    run = RunFolder(config.run_path)
    for code, text in train_ranks(config, 2, prepare=sigterm_while_waiting, arguments=(1,)):
        assert code == 1
        assert "stopped at step 0, while waiting for cluster table 0" in text
    assert checkpoint_steps(run) == [0]
    with LocalService(config):
        succeeded(train_ranks(config, 2))
    assert read_json(run.report)["table_switches"] == [[0, 0], [3, 3]]


def test_a_run_whose_table_never_came_resumes_where_it_waited(tmp_path, tiny_shards):
    config = tiny_config(tmp_path / "run", tiny_shards, refresh__timeout_seconds=5)
    run, repaired = RunFolder(config.run_path), threading.Event()

    def be_late(step):
        if step == 8:
            repaired.wait(60)

    with LocalService(config, before_serving=be_late):
        for code, text in train_ranks(config, 2):
            assert code == 1
            assert "error: step 10: no cluster table 8" in text
        assert checkpoint_steps(run) == [10], "nothing of what was done is lost"
        repaired.set()
        succeeded(train_ranks(config, 2))
    switches = read_json(run.report)["table_switches"]
    assert switches[:2] == [[0, 0], [10, 8]]
    assert switches[-1] == [20, 20]


def test_without_a_service_training_fails_and_says_what_to_start(tmp_path, tiny_shards):
    config = tiny_config(tmp_path / "run", tiny_shards, refresh__timeout_seconds=0.5)
    for code, text in train_ranks(config, 2):
        assert code == 1
        assert "error: step 0: no cluster table 0" in text
        assert "python -m cluster_jobs.recluster" in text
        assert "Traceback" not in text
