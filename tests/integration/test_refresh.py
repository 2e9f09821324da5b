"""Training and the clustering service, when the service is late, dead or back."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from clustering import store
from data_shards.atomic import read_json
from tests.helpers.local_service import LocalService
from tests.helpers.training import series, succeeded, tiny_config, train_ranks
from trainer.checkpoint import checkpoint_steps
from trainer.objective import Objective
from trainer.run_folder import RunFolder
from trainer.snapshot import snapshot_steps

pytestmark = pytest.mark.slow


def wait_until(condition, *, what, seconds=40):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def slowly(rank, seconds):
    """Let steps take long enough for a service to end and come back."""
    compute = Objective.__call__

    def slow(*arguments):
        time.sleep(seconds)
        return compute(*arguments)

    Objective.__call__ = slow


def test_training_outlives_a_dead_service_and_catches_up_with_a_new_one(tmp_path, tiny_shards):
    config = tiny_config(
        tmp_path / "run",
        tiny_shards,
        refresh__every=4,
        refresh__on_late="continue",
        train__steps=28,
        sampler__neighbourhoods=1,
    )
    run = RunFolder(config.run_path)
    service = LocalService(config)
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train_ranks, config, prepare=slowly, arguments=(0.1,))
        service.start()
        wait_until(lambda: store.latest_version(run.tables) == 4, what="table 4")
        service.stop()
        # It may have been at work on one more; with that, all that follows is without a service.
        dead_since = store.latest_version(run.tables)
        wait_until(lambda: max(snapshot_steps(run)) >= dead_since + 12, what="three requests")
        service.start()
        (text,) = succeeded(training.result())
        service.stop()
    assert f"table {dead_since + 4} is late; training goes on with table {dead_since}" in text
    published = store.versions(run.tables)
    assert dead_since + 4 not in published, "overtaken by newer requests"
    assert published[-1] == 28, "the final evaluation has tables of the last weights"
    versions = list(series(config, "table/version").values())
    assert versions == sorted(versions)
    assert versions[-1] > dead_since + 4, "caught up"
    report = read_json(run.report)
    assert report["table_version"] == 28
    assert [v for _, v in report["table_switches"]] == published


def test_training_ends_with_an_older_table_when_the_service_stays_dead(tmp_path, tiny_shards):
    config = tiny_config(
        tmp_path / "run",
        tiny_shards,
        refresh__on_late="continue",
        refresh__timeout_seconds=3,
        train__steps=12,
    )
    service = LocalService(config)
    dying = threading.Thread(target=lambda: (served_first(service), service.stop()))
    service.start()
    dying.start()
    (text,) = succeeded(train_ranks(config, prepare=slowly, arguments=(0.05,)))
    dying.join()
    last = service.served[-1]
    assert last < 12
    assert f"no cluster table 12 in {config.run_path / 'tables'} after 3 s" in text
    assert f"evaluating with table {last}" in text
    report = read_json(RunFolder(config.run_path).report)
    assert report["table_version"] == last
    assert set(report["balanced_accuracy"]) == {"knc_margin", "knc_soft", "ncm", "head"}


def served_first(service):
    wait_until(lambda: service.served, what="the first table")


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


def sigterm_soon(rank, at_rank, seconds):
    if rank == at_rank:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()


def test_ranks_that_wait_for_a_table_can_be_stopped_and_go_on(tmp_path, tiny_shards):
    config = tiny_config(tmp_path / "run", tiny_shards, train__steps=3)
    run = RunFolder(config.run_path)
    started = time.monotonic()
    results = train_ranks(config, 2, prepare=sigterm_soon, arguments=(1, 2.0))
    assert time.monotonic() - started < 25, "long before refresh.timeout_seconds"
    for code, text in results:
        assert code == 1
        assert "stopped at step 0, while waiting for cluster table 0" in text
    assert checkpoint_steps(run) == [0]
    with LocalService(config):
        succeeded(train_ranks(config, 2))
    assert read_json(run.report)["table_switches"] == [[0, 0], [3, 3]]


def test_without_a_service_training_fails_and_says_what_to_start(tmp_path, tiny_shards):
    config = tiny_config(tmp_path / "run", tiny_shards, refresh__timeout_seconds=0.5)
    for code, text in train_ranks(config, 2):
        assert code == 1
        assert "error: step 0: no cluster table 0" in text
        assert "python -m cluster_jobs.recluster" in text
        assert "Traceback" not in text
