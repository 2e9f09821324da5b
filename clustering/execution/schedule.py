"""Jobs side by side, each of which keeps one or more workers busy. No Ray.

A job waits for workers elsewhere, so each runs in a thread of its own.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job(Generic[Result]):
    """Something to run."""

    run: Callable[[], Result]
    num_workers: int = 1
    """Workers that it keeps busy."""


@dataclass(frozen=True)
class _End(Generic[Result]):
    """Of a job."""

    num_workers: int
    results: tuple[Result, ...]
    error: BaseException | None = None


class JobQueue(Generic[Item]):
    """Waiting jobs; the next one is the first that the free workers are enough for.

    So no worker is idle because a job at the front needs more than are free. The job at the front
    is overtaken by at most as many jobs as there are workers; then everything waits for it.
    """

    def __init__(self, jobs: Iterable[tuple[Item, int]], num_workers: int) -> None:
        """Make a queue; the jobs are drawn from the iterable as they are needed.

        Args:
            jobs: each with the workers that it wants; one that wants more than all gets all.
            num_workers: all workers, >= 1.
        """
        self._jobs = enumerate(jobs)
        self._num_workers = num_workers
        # By the workers wanted, with places in the queue.
        self._waiting: dict[int, deque[tuple[int, Item]]] = defaultdict(deque)
        self._num_overtakes = 0

    def take(self, free: int) -> tuple[Item, int] | None:
        """The next job and its number of workers; None if none can start on the free ones."""
        if not free:
            return None
        must_be_first = self._num_overtakes == self._num_workers
        if not must_be_first:
            self._draw(free)
        places = {wanted: jobs[0][0] for wanted, jobs in self._waiting.items() if jobs}
        first = min(places, key=places.__getitem__, default=0)
        fitting = [wanted for wanted in places if wanted <= free]
        wanted = min(fitting, key=places.__getitem__, default=0)
        if not wanted or (must_be_first and wanted != first):
            return None
        self._num_overtakes = 0 if wanted == first else self._num_overtakes + 1
        return self._waiting[wanted].popleft()[1], wanted

    def _draw(self, free: int) -> None:
        """Draw jobs until there is one that the free workers are enough for."""
        while not any(jobs and wanted <= free for wanted, jobs in self._waiting.items()):
            following = next(self._jobs, None)
            if following is None:
                return
            place, (item, wanted) = following
            self._waiting[min(wanted, self._num_workers)].append((place, item))


def makespan(jobs: Iterable[tuple[float, int]], num_workers: int) -> float:
    """When the last job ends, if they run in the order of `JobQueue`.

    Args:
        jobs: how long each takes, in any unit, and the workers that it wants.
        num_workers: all workers, >= 1.
    """
    queue = JobQueue(jobs, num_workers)
    ends: list[tuple[float, int]] = []
    now, free = 0.0, num_workers
    while True:
        while (following := queue.take(free)) is not None:
            seconds, taken = following
            heapq.heappush(ends, (now + seconds, taken))
            free -= taken
        if not ends:
            return now
        now, taken = heapq.heappop(ends)
        free += taken


def run_jobs(
    jobs: Iterable[Job[Result]], num_workers: int, *, stop: Callable[[], None]
) -> Iterator[Result]:
    """Run jobs in the order of `JobQueue`.

    Args:
        jobs: what to run, drawn from the iterable when workers are free.
        num_workers: all workers, >= 1.
        stop: called when a job has failed, or the caller wants no more results: makes the other
            jobs end soon.

    Yields:
        The results, in the order of completion.

    Raises:
        BaseException: that of the first job that failed, once all others have ended.
    """
    ended: SimpleQueue[_End[Result]] = SimpleQueue()

    def run(job: Job[Result], taken: int) -> None:
        try:
            ended.put(_End(taken, (job.run(),)))
        except BaseException as error:  # noqa: BLE001 - raised in the thread of the caller
            ended.put(_End(taken, (), error))

    queue = JobQueue(((job, job.num_workers) for job in jobs), num_workers)
    free = num_workers
    with ThreadPoolExecutor(num_workers, thread_name_prefix="job") as threads:
        try:
            while True:
                while (following := queue.take(free)) is not None:
                    threads.submit(run, *following)
                    free -= following[1]
                if free == num_workers:
                    return
                end = ended.get()
                free += end.num_workers
                if end.error is not None:
                    raise end.error
                yield from end.results
        except BaseException:
            stop()
            raise
