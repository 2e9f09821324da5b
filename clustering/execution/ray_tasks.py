"""Ray tasks of one CPU: bounded in number and time, run again when lost.

Functions are sent to the processes that Ray has; none is ended, so whoever comes next finds them
with all that they have imported.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from data_shards.errors import DataError

# `ray` is imported in functions: it reads its environment then, which a job sets up first.

logger = logging.getLogger(__name__)

Work = TypeVar("Work")
Result = TypeVar("Result")

_STOP_SECONDS = 0.5  # after an error elsewhere, until nobody waits for a task any more


class InputLostError(Exception):
    """Values that a task's arguments refer to are gone, and Ray cannot make them again."""


class StoppedError(Exception):
    """Another task has failed, so this one's result is of no use."""


@dataclass(frozen=True)
class Call:
    """One task."""

    name: str
    """For messages."""
    arguments: tuple[Any, ...]
    """References to values among them are replaced by the values."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What tasks do."""

    function: Callable[..., Any]
    """Of an importable module, or self-contained. It must bear that a task that seemed lost still
    goes on."""
    kept: int = 0
    """So many values, returned or yielded before the answer, stay in the object store. The task
    must be deterministic: Ray runs it again where such a value is lost with its node."""
    spread: bool = False
    """Whether nodes take turns, so that what is kept is spread over them."""
    on_gpu: bool = False
    """Whether a task asks for the runner's share of a GPU."""


class TaskRunner:
    """Runs calls on the Ray cluster that this process is connected to; threads may share one."""

    def __init__(
        self,
        config: ClusterConfig,
        *,
        num_gpus: float = 0.0,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare.

        Args:
            config: `task_timeout_seconds` and `max_retries`.
            num_gpus: share of a GPU for the kinds of tasks that need one, in [0, 1].
            on_answer: called whenever a task has answered, by the thread that waits for it.
        """
        self.config = config
        self.num_gpus = num_gpus
        self.on_answer = on_answer
        self.answers = _Answers()
        self.stopped = threading.Event()

    def run(
        self, kind: Kind, calls: Sequence[Call], *, num_at_once: int
    ) -> Iterator[tuple[int, Any]]:
        """Run every call.

        Tasks under way when this ends early go on to their own end, or to that of the job.

        Args:
            kind: what they do.
            calls: their arguments.
            num_at_once: tasks under way at a time, >= 1. Those that the cluster has no free CPU for
                wait there.

        Yields:
            (number of the call, its answer), in the order of completion. With `kept` the answer
            comes after the references, in a list.

        Raises:
            ClusterError: when a task fails by itself, or is lost or late too often. It is late
                `task_timeout_seconds` after it was sent, or after the last answer of a task that
                was sent before it, whichever the thread.
            DataError: when a task says so.
            InputLostError: when values are gone that its arguments refer to.
            StoppedError: after `stop`.
        """
        import ray

        tasks = _Tasks(kind, calls, self)
        while tasks.waiting or tasks.running:
            while tasks.waiting and len(tasks.running) < num_at_once:
                tasks.start(*tasks.waiting.popleft())
            wait = min(tasks.seconds_left(), _STOP_SECONDS)
            ready, _ = ray.wait(list(tasks.running), timeout=wait)
            if self.stopped.is_set():
                raise StoppedError
            if ready:
                yield from tasks.finish(ready[0])
            tasks.give_up_late_ones()

    def run_one(self, kind: Kind, call: Call) -> Any:
        """Run one call; see `run`."""
        ((_, answer),) = self.run(kind, [call], num_at_once=1)
        return answer

    def stop(self) -> None:
        """Wait for no task any more, in all threads."""
        self.stopped.set()


def run_tasks(
    function: Callable[[Work], Result],
    works: Sequence[Work],
    *,
    num_at_once: int,
    config: ClusterConfig,
    num_gpus: float = 0.0,
) -> Iterator[tuple[int, Result]]:
    """Run one Ray task for each piece of work: `TaskRunner.run`.

    Args:
        function: what a task does; of an importable module, or self-contained.
        works: its arguments; `str(work)` names one in messages.
        num_at_once: tasks under way at a time, >= 1.
        config: `task_timeout_seconds` and `max_retries`.
        num_gpus: share of a GPU that a task asks for, in [0, 1].

    Yields:
        (number of the work, result), in the order of completion.

    Raises:
        ClusterError: when a task fails by itself, or is lost or late too often.
        DataError: when a task says so.
    """
    calls = [Call(str(work), (work,)) for work in works]
    runner = TaskRunner(config, num_gpus=num_gpus)
    return runner.run(Kind(function=function, on_gpu=True), calls, num_at_once=num_at_once)


class _Answers:
    """When tasks answered, those of all threads of a runner.

    Ray does not say when a task begins, but begins them in about the order in which they are sent.
    So an answer of one that was sent before may mean that a task only now has a CPU; one of a task
    that was sent later does not, or a task that hangs would go unnoticed while others are sent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Of the answers since which none came of a task that was sent as early: both ascend.
        self._sent: list[float] = []
        self._answered: list[float] = []

    def add(self, sent: float) -> None:
        """A task has answered just now that was sent then, in seconds of the monotonic clock."""
        with self._lock:
            place = bisect_left(self._sent, sent)
            self._sent[place:] = [sent]
            self._answered[place:] = [time.monotonic()]

    def last_of_those_before(self, sent: float) -> float:
        """When a task that was sent before that time answered last; -inf if none has."""
        with self._lock:
            place = bisect_left(self._sent, sent)
            return self._answered[place - 1] if place else -math.inf


@dataclass(frozen=True)
class _Attempt:
    """A task under way."""

    number: int
    """Of its call."""
    retries: int
    """Attempts before this one."""
    sent: float
    """On the monotonic clock, in seconds."""
    kept: list[Any]
    """References to what stays in the object store."""


class _Tasks:
    """What is waiting and what is running."""

    def __init__(self, kind: Kind, calls: Sequence[Call], runner: TaskRunner) -> None:
        self._calls = calls
        self._timeout_seconds = runner.config.task_timeout_seconds
        self._max_retries = runner.config.max_retries
        self._on_answer = runner.on_answer
        self._answers = runner.answers
        self._remote: Any = _remote(kind.function).options(
            num_cpus=1,
            num_gpus=runner.num_gpus if kind.on_gpu else 0,
            num_returns=kind.kept + 1,
            # Ray's own retries have no time limit, and multiply with ours; but without them it
            # does not make again what was kept on a node that is lost.
            max_retries=self._max_retries if kind.kept else 0,
            scheduling_strategy="SPREAD" if kind.spread else "DEFAULT",
        )
        self.waiting = deque((number, 0) for number in range(len(calls)))
        self.running: dict[Any, _Attempt] = {}

    def start(self, number: int, retries: int) -> None:
        """Send one call to the cluster."""
        returned = self._remote.remote(*self._calls[number].arguments)
        *kept, answer = returned if isinstance(returned, list) else [returned]
        self.running[answer] = _Attempt(number, retries, time.monotonic(), kept)

    def seconds_left(self) -> float:
        """Time until the first of the running tasks is late."""
        first = min(map(self._deadline, self.running.values()))
        return max(0.0, first - time.monotonic())

    def _deadline(self, attempt: _Attempt) -> float:
        """When a task is late; what it waits for in Ray's queue is no delay of its own."""
        begun = max(attempt.sent, self._answers.last_of_those_before(attempt.sent))
        return begun + self._timeout_seconds

    def finish(self, reference: Any) -> Iterator[tuple[int, Any]]:
        """Yield the answer of a task that has ended; none if it must run again."""
        import ray

        attempt = self.running.pop(reference)
        try:
            answer = ray.get(reference, timeout=self._timeout_seconds)
        except ray.exceptions.RayTaskError as error:
            self._judge(attempt, error)
        except ray.exceptions.ObjectLostError as error:
            self._try_again(attempt, f"its answer was lost with its node ({error})")
        except ray.exceptions.RayError as error:
            self._try_again(attempt, f"its worker was lost ({error})")
        else:
            self._answers.add(attempt.sent)
            self._on_answer()
            yield attempt.number, [*attempt.kept, answer] if attempt.kept else answer

    def _judge(self, attempt: _Attempt, error: Any) -> None:
        """Raise what a task has failed with, unless it only lacked what another attempt brings."""
        import ray

        if isinstance(error.cause, (ClusterError, DataError)):
            raise error.cause from None
        call = self._calls[attempt.number]
        if not isinstance(error.cause, ray.exceptions.ObjectLostError):
            raise ClusterError(f"{call.name} failed: {error}") from error
        if any(isinstance(argument, ray.ObjectRef) for argument in call.arguments):
            raise InputLostError(str(error.cause)) from error
        # Ray keeps a large plain argument in an object store too; it is sent anew.
        self._try_again(attempt, f"its arguments were lost ({error.cause})")

    def give_up_late_ones(self) -> None:
        """Stop the tasks whose time is up; they must run again.

        Only those: Ray 2.60 may end the driver when it cancels a task that is just being sent to a
        worker, so what is merely of no use any more is left alone.
        """
        import ray

        now = time.monotonic()
        for reference, attempt in list(self.running.items()):
            if self._deadline(attempt) <= now:
                del self.running[reference]
                ray.cancel(reference, force=True)
                self._try_again(attempt, f"no result in {self._timeout_seconds:g} s")

    def _try_again(self, attempt: _Attempt, reason: str) -> None:
        name = self._calls[attempt.number].name
        if attempt.retries >= self._max_retries:
            raise ClusterError(
                f"{name}: {reason}, in the last of {attempt.retries + 1} attempts; look at memory "
                "and load of the Ray nodes, or raise cluster.task_timeout_seconds or "
                "cluster.max_retries"
            )
        logger.warning("%s: %s; trying again", name, reason)
        self.waiting.appendleft((attempt.number, attempt.retries + 1))


@lru_cache(maxsize=32)
def _remote(function: Callable[..., Any]) -> Any:
    """The same for the same function: Ray sends each new one to all workers."""
    import ray

    return ray.remote(function)
