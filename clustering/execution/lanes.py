"""Jobs side by side in threads, as many as there are lanes for them; no Ray.

A job waits for workers elsewhere, so a thread of it costs nothing.
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


class Line(Generic[Item]):
    """Those who wait for lanes, and who is next: the first whom the free lanes are enough for.

    So lanes that are too few for a wide one are not idle. Whoever is first in the line is passed by
    at most as many as there are lanes, and then waited for.
    """

    def __init__(self, coming: Iterable[tuple[Item, int]], num_lanes: int) -> None:
        """Form a line.

        Args:
            coming: whoever waits and the lanes wanted, asked for when needed; all lanes for those
                that want more.
            num_lanes: of all, >= 1.
        """
        self._coming = enumerate(coming)
        self._num_lanes = num_lanes
        # By the lanes wanted, with places in the line.
        self._waiting: dict[int, deque[tuple[int, Item]]] = defaultdict(deque)
        self._num_passed = 0

    def take(self, free: int) -> tuple[Item, int] | None:
        """Let the next one go; with the lanes that it gets, or None if nobody can go now."""
        if not free:
            return None
        waited_for = self._num_passed == self._num_lanes
        if not waited_for:
            self._ask(free)
        places = {lanes: line[0][0] for lanes, line in self._waiting.items() if line}
        first = min(places, key=places.__getitem__, default=0)
        fitting = [lanes for lanes in places if lanes <= free]
        lanes = min(fitting, key=places.__getitem__, default=0)
        if not lanes or (waited_for and lanes != first):
            return None
        self._num_passed = 0 if lanes == first else self._num_passed + 1
        return self._waiting[lanes].popleft()[1], lanes

    def _ask(self, free: int) -> None:
        """Have more come until there is somebody whom so many lanes are enough for."""
        while not any(line and lanes <= free for lanes, line in self._waiting.items()):
            following = next(self._coming, None)
            if following is None:
                return
            place, (item, lanes) = following
            self._waiting[min(lanes, self._num_lanes)].append((place, item))


def seconds_in_lanes(jobs: Iterable[tuple[float, int]], num_lanes: int) -> float:
    """When the last job ends, if they run in the order of `Line`.

    Args:
        jobs: how long each takes, in any unit, and the lanes that it wants.
        num_lanes: of all, >= 1.
    """
    line = Line(jobs, num_lanes)
    ends: list[tuple[float, int]] = []
    now, free = 0.0, num_lanes
    while True:
        while (following := line.take(free)) is not None:
            seconds, lanes = following
            heapq.heappush(ends, (now + seconds, lanes))
            free -= lanes
        if not ends:
            return now
        now, lanes = heapq.heappop(ends)
        free += lanes


def run_in_lanes(
    jobs: Iterable[Job[Result]], num_lanes: int, *, stop: Callable[[], None]
) -> Iterator[Result]:
    """Run jobs, in the order of `Line`.

    Args:
        jobs: what to do, asked for when lanes are free.
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

    line = Line(((job, job.lanes) for job in jobs), num_lanes)
    free = num_lanes
    with ThreadPoolExecutor(num_lanes, thread_name_prefix="lane") as threads:
        try:
            while True:
                while (following := line.take(free)) is not None:
                    threads.submit(run, *following)
                    free -= following[1]
                if free == num_lanes:
                    return
                end = ended.get()
                free += end.lanes
                if end.error is not None:
                    raise end.error
                yield from end.results
        except BaseException:
            stop()
            raise
