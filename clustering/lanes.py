"""Jobs side by side in threads, as many as there are lanes for them; no Ray.

A job waits for workers elsewhere, so a thread of it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Job(Generic[Result]):
    """Something to do."""

    run: Callable[[], Result]
    lanes: int = 1
    """Workers that it keeps busy."""


@dataclass(frozen=True)
class _End(Generic[Result]):
    """Of a job."""

    lanes: int
    results: tuple[Result, ...]
    error: BaseException | None = None


def run_in_lanes(
    jobs: Iterable[Job[Result]], num_lanes: int, *, stop: Callable[[], None]
) -> Iterator[Result]:
    """Run jobs; they start in order, each when enough lanes are free.

    Args:
        jobs: what to do, asked for one at a time; those that need more lanes than there are get
            all.
        num_lanes: workers, >= 1.
        stop: called when a job has failed, or nobody wants the results any more: has the others
            end soon.

    Yields:
        The results, in the order of completion.

    Raises:
        BaseException: what the first job that failed has raised, when all others have ended.
    """
    ended: SimpleQueue[_End[Result]] = SimpleQueue()

    def run(job: Job[Result], lanes: int) -> None:
        try:
            ended.put(_End(lanes, (job.run(),)))
        except BaseException as error:  # noqa: BLE001 - raised where the results are wanted
            ended.put(_End(lanes, (), error))

    waiting = iter(jobs)
    job = next(waiting, None)
    free = num_lanes
    with ThreadPoolExecutor(num_lanes, thread_name_prefix="lane") as threads:
        try:
            while job is not None or free < num_lanes:
                while job is not None and min(job.lanes, num_lanes) <= free:
                    lanes = min(job.lanes, num_lanes)
                    free -= lanes
                    threads.submit(run, job, lanes)
                    job = next(waiting, None)
                end = ended.get()
                free += end.lanes
                if end.error is not None:
                    raise end.error
                yield from end.results
        except BaseException:
            stop()
            raise
