from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from clustering.execution.schedule import Job, JobQueue, makespan, run_jobs


class Watched:
    """Jobs that note how many workers are taken."""

    def __init__(self) -> None:
        self.taken = 0
        self.most = 0
        self.order: list[int] = []
        self.lock = threading.Lock()

    def job(self, number: int, num_workers: int = 1) -> Job[int]:
        def run() -> int:
            with self.lock:
                self.order.append(number)
                self.taken += num_workers
                self.most = max(self.most, self.taken)
            with self.lock:
                self.taken -= num_workers
            return number

        return Job(run, num_workers)


def never() -> None:
    raise AssertionError("nothing has failed")


@pytest.mark.parametrize("num_workers", [1, 2, 3, 10])
def test_every_job_runs_once_on_the_workers_there_are(num_workers: int) -> None:
    watched = Watched()
    jobs = [watched.job(number, num_workers=1 + number % 3) for number in range(30)]
    assert sorted(run_jobs(jobs, num_workers, stop=never)) == list(range(30))
    assert watched.most <= max(num_workers, 3)  # a wide job has all workers to itself
    assert list(run_jobs([], num_workers, stop=never)) == []


def test_jobs_start_in_order() -> None:
    watched = Watched()
    jobs = [watched.job(number, num_workers=1 + number % 2) for number in range(20)]
    assert list(run_jobs(jobs, 1, stop=never)) == list(range(20))
    assert watched.order == list(range(20))


def test_jobs_that_fit_run_side_by_side() -> None:
    together = threading.Barrier(3, timeout=20)

    def meets() -> int:
        return together.wait()

    jobs = [Job(meets, 2), Job(meets), Job(meets)]
    assert sorted(run_jobs(jobs, 4, stop=never)) == [0, 1, 2]


def test_jobs_are_drawn_when_they_can_start() -> None:
    started: list[int] = []

    def jobs() -> Iterator[Job[None]]:
        for number in range(9):
            assert len(started) >= number
            yield Job(partial(started.append, number))

    assert len(list(run_jobs(jobs(), 1, stop=never))) == 9


def test_workers_that_are_too_few_for_the_first_job_are_not_idle() -> None:
    queue = JobQueue([("a", 3), ("b", 4), ("c", 2), ("d", 1), ("e", 1), ("f", 9)], 4)
    taken = [queue.take(free) for free in (4, 1, 0, 3, 2, 4, 4, 4)]
    assert taken == [
        ("a", 3),
        ("d", 1),  # one worker is left
        None,
        ("c", 2),
        ("e", 1),
        ("b", 4),
        ("f", 4),  # as many as there are
        None,
    ]


def test_a_wide_job_is_overtaken_only_so_often() -> None:
    queue = JobQueue([("first", 1), ("wide", 2), *[("narrow", 1)] * 9], 2)
    assert [queue.take(1) for _ in range(5)] == [("first", 1), *[("narrow", 1)] * 2, None, None]
    assert queue.take(2) == ("wide", 2)
    assert queue.take(1) == ("narrow", 1)


@pytest.mark.parametrize(
    ("jobs", "num_workers", "seconds"),
    [
        ([], 2, 0),
        ([(3, 1), (1, 1), (1, 1)], 2, 3),
        ([(3, 2), (1, 3), (1, 1), (2, 1)], 3, 4),  # both narrow ones next to the first
        ([(2, 9), (2, 9)], 2, 4),
    ],
)
def test_makespan(jobs: list[tuple[float, int]], num_workers: int, seconds: float) -> None:
    assert makespan(jobs, num_workers) == seconds


def _failing(stopped: threading.Event) -> list[Job[int]]:
    def fails() -> int:
        raise ValueError("job 1 is broken")

    def waits() -> int:
        assert stopped.wait(20)
        raise RuntimeError("stopped")

    return [Job(waits), Job(fails), Job(never_run)]


def never_run() -> int:
    raise AssertionError("a job has failed before")


def test_a_failure_stops_the_others() -> None:
    stopped = threading.Event()
    with pytest.raises(ValueError, match="^job 1 is broken$"):
        list(run_jobs(_failing(stopped), 2, stop=stopped.set))
    assert stopped.is_set()


def test_jobs_are_stopped_when_nobody_wants_the_results() -> None:
    stopped = threading.Event()
    waits: Callable[[], bool] = lambda: stopped.wait(20)  # noqa: E731
    results = run_jobs([Job(lambda: True), Job(waits)], 2, stop=stopped.set)
    assert next(results)
    results.close()
    assert stopped.is_set()
