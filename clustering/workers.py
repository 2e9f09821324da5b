"""How work reaches those who do it: this process, or the workers of a Ray cluster."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from clustering.actors import ActorLostError, ActorPool
from clustering.backends import BackendName, choose_backend, one_thread
from clustering.bundle import BundleResult, BundleWork, cluster_bundle
from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.kmeans import LocalGroup
from clustering.sharded_kmeans import cluster_shares, divide, open_share
from data_shards.errors import DataError

# `ray` is imported in functions: it reads its environment then, which a job sets up first.

logger = logging.getLogger(__name__)

Work = TypeVar("Work")
Result = TypeVar("Result")


class Workers(Protocol):
    """Whoever clusters bundles."""

    @property
    def num_workers(self) -> int:
        """Bundles that are clustered at a time."""

    @property
    def backend(self) -> BackendName:
        """Who compares rows with centroids, the same for all."""

    def run(self, works: Sequence[BundleWork]) -> Iterator[tuple[int, BundleResult]]:
        """Cluster every bundle; yields (number of the work, result) in any order."""

    def run_sharded(self, work: BundleWork, *, dim: int) -> BundleResult:
        """Cluster the one class of a bundle, its rows divided over all workers."""


class LocalWorker:
    """This process, one bundle after the other."""

    num_workers = 1

    def __init__(self, config: ClusterConfig) -> None:
        """Choose the backend.

        Raises:
            ClusterError: when the one of the settings does not work here.
        """
        self.backend: BackendName = choose_backend(config.backend)

    def run(self, works: Sequence[BundleWork]) -> Iterator[tuple[int, BundleResult]]:
        """Cluster every bundle, in order."""
        for number, work in enumerate(works):
            yield number, cluster_bundle(work)

    def run_sharded(self, work: BundleWork, *, dim: int) -> BundleResult:
        """Cluster a class; rows beyond the memory of a worker are read anew when needed."""
        (share,) = divide(work, 1)
        with one_thread():
            return cluster_shares(work, LocalGroup((open_share(share),), len(work.positions), dim))


class RayWorkers:
    """Tasks and actors of one CPU each on the Ray cluster that this process is connected to.

    A context manager: the actors stay from one class, and table, to the next until it is closed.
    """

    def __init__(self, config: ClusterConfig) -> None:
        """Look how many CPUs there are.

        Raises:
            ClusterError: when there is none, or the backend of the settings does not work here.
        """
        import ray

        resources = ray.cluster_resources()
        num_cpus = int(resources.get("CPU", 0))
        if num_cpus < 1:
            raise ClusterError("the Ray cluster has no CPU: start a worker node with at least one")
        if config.num_workers > num_cpus:
            logger.warning(
                "cluster.num_workers is %d, but the Ray cluster has %d CPUs: using those",
                config.num_workers,
                num_cpus,
            )
        self.num_workers = min(config.num_workers or num_cpus, num_cpus)
        self._config = config
        self._pool: ActorPool | None = None
        num_gpus = resources.get("GPU", 0)
        if config.backend == "auto" and not num_gpus:
            self.backend: BackendName = "faiss-cpu"  # a worker without a GPU of Ray's sees none
        else:
            self.backend = choose_backend(config.backend)
        on_gpu = self.backend != "faiss-cpu"
        self._num_gpus = min(1.0, num_gpus / self.num_workers) if on_gpu else 0.0

    def __enter__(self) -> RayWorkers:
        """Nothing to do."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the actors."""
        self.close()

    def close(self) -> None:
        """End the actors; the next class to divide starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def run(self, works: Sequence[BundleWork]) -> Iterator[tuple[int, BundleResult]]:
        """Cluster every bundle; yields them as they are done."""
        if works:
            self.close()  # the tasks need the CPUs
        return run_tasks(
            cluster_bundle,
            works,
            num_at_once=self.num_workers,
            config=self._config,
            num_gpus=self._num_gpus,
        )

    def run_sharded(self, work: BundleWork, *, dim: int) -> BundleResult:
        """Cluster a class by actors that hold its rows; with new ones when one is lost.

        Raises:
            ClusterError: when a share fails by itself, or actors are lost or late too often.
            DataError: when a share cannot be read.
        """
        shares = [share for share in divide(work, self.num_workers) if len(share.positions)]
        for attempt in range(self._config.max_retries + 1):
            try:
                return cluster_shares(work, self._actors().group(shares, dim=dim))
            except ActorLostError as error:
                self.close()
                if attempt == self._config.max_retries:
                    raise ClusterError(_given_up(work, str(error), attempt + 1)) from error
                logger.warning("%s: %s; trying again", work, error)
        raise AssertionError("unreachable")

    def _actors(self) -> ActorPool:
        if self._pool is None:
            self._pool = ActorPool(
                self.num_workers,
                num_gpus=self._num_gpus,
                timeout_seconds=self._config.task_timeout_seconds,
            )
        return self._pool


def run_tasks(
    function: Callable[[Work], Result],
    works: Sequence[Work],
    *,
    num_at_once: int,
    config: ClusterConfig,
    num_gpus: float = 0.0,
) -> Iterator[tuple[int, Result]]:
    """Run one Ray task for each piece of work.

    A task whose worker or node dies, or that does not end in time, is run again: `function` must
    be able to bear that a task that seemed lost still goes on.

    Args:
        function: what a task does; of an importable module, or self-contained.
        works: its arguments; `str(work)` names one in messages.
        num_at_once: tasks under way at a time, >= 1. More than the cluster has CPUs for would wait
            there, and their time with them.
        config: `task_timeout_seconds` and `max_retries`.
        num_gpus: share of a GPU that a task asks for, in [0, 1].

    Yields:
        (number of the work, result), in the order of completion.

    Raises:
        ClusterError: when a task fails by itself, or is lost or late too often.
        DataError: when a task says so.
    """
    import ray

    tasks = _Tasks(function, works, config, num_gpus)
    try:
        while tasks.waiting or tasks.running:
            while tasks.waiting and len(tasks.running) < num_at_once:
                tasks.start(*tasks.waiting.popleft())
            ready, _ = ray.wait(list(tasks.running), timeout=tasks.seconds_left())
            if ready:
                yield from tasks.finish(ready[0])
            tasks.give_up_late_ones()
    finally:
        for reference in tasks.running:
            ray.cancel(reference, force=True)


@dataclass(frozen=True)
class _Attempt:
    """A task under way."""

    number: int
    """Of its work."""
    retries: int
    """Attempts before this one."""
    deadline: float
    """On the monotonic clock, in seconds."""


class _Tasks(Generic[Work, Result]):
    """What is waiting and what is running."""

    def __init__(
        self,
        function: Callable[[Work], Result],
        works: Sequence[Work],
        config: ClusterConfig,
        num_gpus: float,
    ) -> None:
        import ray

        # Ray's own retries are off: they have no time limit, and would multiply with ours.
        self._remote: Any = ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=0)(function)
        self._works = works
        self._timeout_seconds = config.task_timeout_seconds
        self._max_retries = config.max_retries
        self.waiting = deque((number, 0) for number in range(len(works)))
        self.running: dict[Any, _Attempt] = {}

    def start(self, number: int, retries: int) -> None:
        """Send one piece of work to the cluster; its time runs from now on."""
        reference = self._remote.remote(self._works[number])
        deadline = time.monotonic() + self._timeout_seconds
        self.running[reference] = _Attempt(number, retries, deadline)

    def seconds_left(self) -> float:
        """Time until the first of the running tasks is late."""
        first = min(attempt.deadline for attempt in self.running.values())
        return max(0.0, first - time.monotonic())

    def finish(self, reference: Any) -> Iterator[tuple[int, Result]]:
        """Yield the result of a task that has ended; none if it must run again."""
        import ray

        attempt = self.running.pop(reference)
        try:
            result = ray.get(reference, timeout=self._timeout_seconds)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, (ClusterError, DataError)):
                raise error.cause from None
            raise ClusterError(f"{self._works[attempt.number]} failed: {error}") from error
        except ray.exceptions.RayError as error:
            self._try_again(attempt, f"its worker was lost ({error})")
        else:
            yield attempt.number, result

    def give_up_late_ones(self) -> None:
        """Stop the tasks whose time is up; they must run again."""
        import ray

        now = time.monotonic()
        for reference, attempt in list(self.running.items()):
            if attempt.deadline <= now:
                del self.running[reference]
                ray.cancel(reference, force=True)
                self._try_again(attempt, f"no result in {self._timeout_seconds:g} s")

    def _try_again(self, attempt: _Attempt, reason: str) -> None:
        work = self._works[attempt.number]
        if attempt.retries >= self._max_retries:
            raise ClusterError(_given_up(work, reason, attempt.retries + 1))
        logger.warning("%s: %s; trying again", work, reason)
        self.waiting.appendleft((attempt.number, attempt.retries + 1))


def _given_up(work: object, reason: str, attempts: int) -> str:
    return (
        f"{work}: {reason}, in the last of {attempts} attempts; look at memory and load of the "
        "Ray nodes, or raise cluster.task_timeout_seconds or cluster.max_retries"
    )
