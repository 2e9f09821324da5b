"""Ray calls: limited in number and time, and made again when lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ray

from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.execution import ray_calls
from clustering.execution.ray_calls import (
    Call,
    CallRunner,
    InputLostError,
    RemoteFunction,
    StoppedError,
    run_calls,
)
from data_shards.errors import DataError
from tests.helpers.small_ray import small_ray

pytestmark = pytest.mark.ray

CONFIG = ClusterConfig()


@pytest.fixture(scope="module", autouse=True)
def _local_ray() -> Iterator[None]:
    with small_ray():
        yield


def test_a_worker_that_always_dies_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    def dies(work: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    config = ClusterConfig(max_retries=1)
    with pytest.raises(
        ClusterError, match=r"work a: its worker was lost .* the last of 2 attempts"
    ):
        list(run_calls(dies, ["work a"], num_at_once=1, config=config))
    assert "work a: its worker was lost" in caplog.text


def test_a_late_call_is_made_again(tmp_path: Path) -> None:
    marker = str(tmp_path / "late")

    def hangs_once(number: int) -> int:
        if number == 1 and not os.path.exists(marker):
            with open(marker, "w"):
                pass
            time.sleep(600)
        return 10 * number

    list(run_calls(lambda number: number, [0, 1], num_at_once=2, config=CONFIG))  # warm
    config = ClusterConfig(call_timeout_seconds=5)
    started = time.monotonic()
    results = sorted(run_calls(hangs_once, [0, 1, 2], num_at_once=2, config=config))
    assert results == [(0, 0), (1, 10), (2, 20)]
    assert os.path.exists(marker)
    assert time.monotonic() - started < 30


def test_a_call_that_is_always_late_is_given_up() -> None:
    def hangs(work: str) -> None:
        time.sleep(600)

    config = ClusterConfig(max_retries=0, call_timeout_seconds=1)
    with pytest.raises(
        ClusterError, match=r"work b: no result in 1 s.*cluster\.call_timeout_secon"
    ):
        list(run_calls(hangs, ["work b"], num_at_once=1, config=config))


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


IMPATIENT = ClusterConfig(max_retries=0, call_timeout_seconds=4)
NAPS = [1.0] * 12  # six seconds on two CPUs, more than the patience with one


def test_waiting_for_a_cpu_is_not_being_late() -> None:
    list(run_calls(nap, [0, 0], num_at_once=2, config=CONFIG))  # warm
    started = time.monotonic()
    napped = list(run_calls(nap, NAPS, num_at_once=len(NAPS), config=IMPATIENT))
    assert len(napped) == len(NAPS)
    assert time.monotonic() - started > IMPATIENT.call_timeout_seconds


def test_waiting_for_a_cpu_behind_calls_of_other_threads_is_not_being_late() -> None:
    runner, kind = CallRunner(IMPATIENT), RemoteFunction(function=nap)
    runner.run_one(kind, Call("warm", (0,)))
    started = time.monotonic()
    with ThreadPoolExecutor(len(NAPS)) as threads:
        napped = threads.map(lambda seconds: runner.run_one(kind, Call("nap", (seconds,))), NAPS)
        assert list(napped) == NAPS
    assert time.monotonic() - started > IMPATIENT.call_timeout_seconds


def test_a_call_that_hangs_is_noticed_while_others_are_done(tmp_path: Path) -> None:
    marker = str(tmp_path / "late")

    def hangs_once(number: int) -> None:
        if number == 1 and not os.path.exists(marker):
            with open(marker, "w"):
                pass
            time.sleep(600)
        time.sleep(0.25)

    list(run_calls(nap, [0, 0], num_at_once=2, config=CONFIG))  # warm
    config = ClusterConfig(max_retries=1, call_timeout_seconds=2)
    done = [number for number, _ in run_calls(hangs_once, range(60), num_at_once=3, config=config)]
    assert os.path.exists(marker)
    assert sorted(done) == list(range(60))
    assert done.index(1) < 50


def waits(path: str) -> None:
    while path and not os.path.exists(path):
        time.sleep(0.05)


def test_no_progress_at_all_ends_in_the_time_of_one_call(tmp_path: Path) -> None:
    """Calls that are given up are no progress for those behind them."""
    released = tmp_path / "released"
    config = ClusterConfig(max_retries=1, call_timeout_seconds=1)
    started = time.monotonic()
    with pytest.raises(ClusterError, match=r"no result in 1 s, in the last of 2 attempts"):
        list(run_calls(waits, [str(released)] * 6, num_at_once=6, config=config))
    assert 2 <= time.monotonic() - started < 5
    released.touch()  # those that are still running occupy the CPUs of the next test


def test_only_answers_of_calls_that_were_sent_before_count() -> None:
    clock = iter(range(100, 200))
    answers = ray_calls._Answers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: next(clock))
        seen: list[tuple[int, int]] = []
        for sent in [5, 3, 8, 8, 2, 9, 1, 7]:
            answers.add(sent)
            seen.append((sent, 100 + len(seen)))
            for other in range(11):
                expected = max((at for early, at in seen if early < other), default=-np.inf)
                assert answers.last_of_those_before(other) == expected


def test_no_more_than_allowed_run_at_once(tmp_path: Path) -> None:
    folder = str(tmp_path)

    def counts(number: int) -> int:
        own = f"{folder}/{number}"
        with open(own, "w"):
            running = len(os.listdir(folder))
        time.sleep(0.05)
        os.remove(own)
        return running

    results = dict(run_calls(counts, range(6), num_at_once=1, config=CONFIG))
    assert results == dict.fromkeys(range(6), 1)


@pytest.mark.parametrize("kind", [ClusterError, DataError])
def test_an_error_of_ours_is_passed_on_and_not_tried_again(
    kind: type[Exception], tmp_path: Path
) -> None:
    log = str(tmp_path / "log")

    def fails(work: str) -> None:
        with open(log, "a") as file:
            file.write("x")
        raise kind("class 3 is broken")

    with pytest.raises(kind, match="^class 3 is broken$"):
        list(run_calls(fails, ["work"], num_at_once=1, config=CONFIG))
    assert Path(log).read_text() == "x"


def test_a_bug_in_a_call_is_shown_with_its_trace() -> None:
    def wrong(work: str) -> float:
        return 1 / 0

    with pytest.raises(
        ClusterError, match=r"(?s)work c failed on a worker; .*in wrong.*ZeroDivisionError"
    ):
        list(run_calls(wrong, ["work c"], num_at_once=1, config=CONFIG))


def test_every_answer_is_reported_and_no_lost_attempt(tmp_path: Path) -> None:
    marker = str(tmp_path / "died")

    def dies_once(number: int) -> int:
        if not os.path.exists(marker):
            with open(marker, "w"):
                os.kill(os.getpid(), signal.SIGKILL)
        return number

    reported: list[None] = []
    runner = CallRunner(CONFIG, on_answer=lambda: reported.append(None))
    calls = [Call(f"work {number}", (number,)) for number in range(3)]
    for number, _ in enumerate(
        runner.run(RemoteFunction(function=dies_once), calls, num_at_once=1), start=1
    ):
        assert len(reported) == number
    assert len(reported) == 3
    assert os.path.exists(marker)


def test_what_is_kept_stays_in_the_object_store() -> None:
    def halves(values: np.ndarray) -> Iterator[object]:
        yield values[:2]
        yield values[2:]
        yield "answer"

    def adds(*parts: np.ndarray) -> list[int]:
        return np.concatenate(parts).tolist()

    runner = CallRunner(CONFIG)
    calls = [Call("work", (np.arange(n),)) for n in (3, 5)]
    kept = dict(runner.run(RemoteFunction(function=halves, kept=2), calls, num_at_once=2))
    assert [answer for *_, answer in kept.values()] == ["answer"] * 2
    for number, n in enumerate((3, 5)):
        first, second, _ = kept[number]
        assert isinstance(first, ray.ObjectRef)
        added = runner.run_one(RemoteFunction(function=adds), Call("sum", (first, second)))
        assert added == list(range(n))


def _lose(monkeypatch: pytest.MonkeyPatch, error: Exception, times: int) -> None:
    """Make Ray raise this error, when it is asked for an answer, a number of times."""
    get = ray.get
    left = [error] * times

    def loses(*arguments: object, **others: object) -> object:
        if left:
            raise left.pop()
        return get(*arguments, **others)

    monkeypatch.setattr(ray, "get", loses)


def negative(number: int) -> int:
    return -number


GONE = ray.exceptions.ObjectLostError("1234", "", "")
NO_INPUT = ray.exceptions.RayTaskError("work", "its trace", GONE)


@pytest.mark.parametrize(("error", "what"), [(GONE, "answer was"), (NO_INPUT, "arguments were")])
def test_what_another_attempt_restores_is_no_failure(
    error: Exception, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = ClusterConfig(max_retries=1)
    _lose(monkeypatch, error, times=1)
    assert list(run_calls(negative, [-3], num_at_once=1, config=config)) == [(0, 3)]
    assert f"-3: its {what} lost" in caplog.text
    _lose(monkeypatch, error, times=2)
    with pytest.raises(ClusterError, match=rf"(?s)-3: its {what} lost .* the last of 2 attempts"):
        list(run_calls(negative, [-3], num_at_once=1, config=config))


def test_only_the_caller_can_restore_what_an_argument_refers_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference = ray.put(-3)
    _lose(monkeypatch, NO_INPUT, times=1)
    with pytest.raises(InputLostError):
        CallRunner(CONFIG).run_one(RemoteFunction(function=negative), Call("work", (reference,)))


def test_nobody_waits_after_a_stop(tmp_path: Path) -> None:
    released = tmp_path / "released"
    runner = CallRunner(CONFIG)
    calls = [Call("a", ("",)), Call("b", (str(released),))]
    results = runner.run(RemoteFunction(function=waits), calls, num_at_once=2)
    assert next(results) == (0, None)
    runner.stop()
    with pytest.raises(StoppedError):
        next(results)
    released.touch()


@pytest.mark.parametrize(("on_gpu", "fraction"), [(True, 0.25), (False, 0)])
def test_a_fraction_of_a_gpu_is_asked_for(
    on_gpu: bool, fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    class Remote:
        def options(self, **options: object) -> None:
            asked.update(options)
            raise InterruptedError

    monkeypatch.setattr(ray, "remote", lambda function: Remote())
    runner = CallRunner(CONFIG, num_gpus=0.25)
    kind = RemoteFunction(function=lambda: None, on_gpu=on_gpu)
    with pytest.raises(InterruptedError):
        runner.run_one(kind, Call("work", ()))
    assert (asked["num_cpus"], asked["num_gpus"], asked["max_retries"]) == (1, fraction, 0)
