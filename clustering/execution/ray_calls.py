"""Ray calls of one CPU each: limited in number and time, and made again when lost.

Functions run in the worker processes that Ray has, and none of these is ended: later calls find
them with everything already imported.
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
from clustering.execution.ray_disk import lost_too_often, spilling
from data_shards.errors import ClmleError

# `ray` is imported in functions: it reads its environment then, which a job sets up first.

logger = logging.getLogger(__name__)

Work = TypeVar("Work")
Result = TypeVar("Result")

_STOP_SECONDS = 0.5  # after an error in another thread, until this one stops waiting


class InputLostError(Exception):
    """Values that a call's arguments refer to are gone, and Ray cannot make them again."""


class StoppedError(Exception):
    """Another call has failed, so the result of this one is not needed."""


@dataclass(frozen=True)
class Call:
    """A call: its arguments, and a name for it."""

    name: str
    """For messages and the log."""
    arguments: tuple[Any, ...]
    """References to values among them are replaced by the values."""


@dataclass(frozen=True, kw_only=True)
class RemoteFunction:
    """What is called, and what Ray does with it."""

    function: Callable[..., Any]
    """Of an importable module, or self-contained. A call that seemed lost may still be running when
    it is made again; the function must allow for that."""
    kept: int = 0
    """This many values, returned or yielded before the answer, stay in the object store. The
    function must be deterministic: Ray calls it again if such a value is lost with its node."""
    spread: bool = False
    """Whether nodes take turns, so that the kept values are spread over them."""
    on_gpu: bool = False
    """Whether a call asks for the runner's fraction of a GPU."""


class CallRunner:
    """Makes calls on the Ray cluster that this process is connected to; threads may share one."""

    def __init__(
        self,
        config: ClusterConfig,
        *,
        num_gpus: float = 0.0,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare.

        Args:
            config: `call_timeout_seconds` and `max_retries`.
            num_gpus: fraction of a GPU for each call of a function that needs one, in [0, 1].
            on_answer: called whenever a call has returned, by the thread that waits for it.
        """
        self.config = config
        self.num_gpus = num_gpus
        self.on_answer = on_answer
        self.answers = _Answers()
        self.stopped = threading.Event()

    def run(
        self, function: RemoteFunction, calls: Sequence[Call], *, num_at_once: int
    ) -> Iterator[tuple[int, Any]]:
        """Make every call.

        When this ends early, calls that are running run to their end, or to that of the job.

        Args:
            function: what is called.
            calls: the arguments.
            num_at_once: calls at a time, >= 1. Those that the cluster has no free CPU for wait in
                its queue.

        Yields:
            (number of the call, its answer), in the order of completion. With `kept` the second is
            a list of the references, with the answer at its end.

        Raises:
            ClusterError: when a call fails by itself, or is lost or late too often. It is late
                `call_timeout_seconds` after it was sent, or after a call that was sent earlier
                returned, in any thread.
            ClmleError: when a call raises it.
            InputLostError: when values that the arguments refer to are gone.
            StoppedError: after `stop`.
        """
        import ray

        sent = _Calls(function, calls, self)
        while sent.waiting or sent.running:
            while sent.waiting and len(sent.running) < num_at_once:
                sent.start(*sent.waiting.popleft())
            wait = min(sent.seconds_left(), _STOP_SECONDS)
            ready, _ = ray.wait(list(sent.running), timeout=wait)
            if self.stopped.is_set():
                raise StoppedError
            if ready:
                yield from sent.finish(ready[0])
            sent.give_up_late_ones()

    def run_one(self, function: RemoteFunction, call: Call) -> Any:
        """Make one call; see `run`."""
        ((_, answer),) = self.run(function, [call], num_at_once=1)
        return answer

    def stop(self) -> None:
        """Stop waiting for calls, in all threads."""
        self.stopped.set()


def run_calls(
    function: Callable[[Work], Result],
    works: Sequence[Work],
    *,
    num_at_once: int,
    config: ClusterConfig,
    num_gpus: float = 0.0,
) -> Iterator[tuple[int, Result]]:
    """Call a function on Ray for each work item: `CallRunner.run`.

    Args:
        function: what to call; of an importable module, or self-contained.
        works: the work items, each the argument of a call; `str(work)` names it in messages.
        num_at_once: calls at a time, >= 1.
        config: `call_timeout_seconds` and `max_retries`.
        num_gpus: fraction of a GPU that a call asks for, in [0, 1].

    Yields:
        (number of the work item, result), in the order of completion.

    Raises:
        ClusterError: when a call fails by itself, or is lost or late too often.
        ClmleError: when a call raises it.
    """
    calls = [Call(str(work), (work,)) for work in works]
    runner = CallRunner(config, num_gpus=num_gpus)
    with spilling():
        yield from runner.run(
            RemoteFunction(function=function, on_gpu=True), calls, num_at_once=num_at_once
        )


class _Answers:
    """When calls returned, in all threads of a runner.

    Ray does not say when a call starts, but starts them in about the order in which they are sent.
    So when a call that was sent earlier returns, this one may only now have got a CPU. Calls that
    were sent later do not count, or one that hangs would go unnoticed while others are sent.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Only the answers after which no call that was sent as early returned: both ascend.
        self._sent: list[float] = []
        self._answered: list[float] = []

    def add(self, sent: float) -> None:
        """A call sent at this time, in seconds of the monotonic clock, has returned just now."""
        with self._lock:
            place = bisect_left(self._sent, sent)
            self._sent[place:] = [sent]
            self._answered[place:] = [time.monotonic()]

    def last_of_those_before(self, sent: float) -> float:
        """When the last call that was sent before this time returned; -inf if none has."""
        with self._lock:
            place = bisect_left(self._sent, sent)
            return self._answered[place - 1] if place else -math.inf


@dataclass(frozen=True)
class _Attempt:
    """A call that is running or waits for a CPU."""

    number: int
    """Of its call."""
    retries: int
    """Attempts before this one."""
    sent: float
    """On the monotonic clock, in seconds."""
    kept: list[Any]
    """References to the values that stay in the object store."""


class _Calls:
    """The calls that wait to be sent, and those that have been."""

    def __init__(self, function: RemoteFunction, calls: Sequence[Call], runner: CallRunner) -> None:
        self._calls = calls
        self._timeout_seconds = runner.config.call_timeout_seconds
        self._max_retries = runner.config.max_retries
        self._on_answer = runner.on_answer
        self._answers = runner.answers
        self._remote: Any = _remote(function.function).options(
            num_cpus=1,
            num_gpus=runner.num_gpus if function.on_gpu else 0,
            num_returns=function.kept + 1,
            # Ray's own retries have no time limit, and multiply with ours; but without them it
            # does not recover values that were kept on a lost node.
            max_retries=self._max_retries if function.kept else 0,
            scheduling_strategy="SPREAD" if function.spread else "DEFAULT",
        )
        self.waiting = deque((number, 0) for number in range(len(calls)))
        self.running: dict[Any, _Attempt] = {}

    def start(self, number: int, retries: int) -> None:
        """Send one call to the cluster."""
        returned = self._remote.remote(*self._calls[number].arguments)
        *kept, answer = returned if isinstance(returned, list) else [returned]
        self.running[answer] = _Attempt(number, retries, time.monotonic(), kept)

    def seconds_left(self) -> float:
        """Time until the first of the running calls is late."""
        first = min(map(self._deadline, self.running.values()))
        return max(0.0, first - time.monotonic())

    def _deadline(self, attempt: _Attempt) -> float:
        """When a call is late; the time that it waits in Ray's queue does not count."""
        started = max(attempt.sent, self._answers.last_of_those_before(attempt.sent))
        return started + self._timeout_seconds

    def finish(self, reference: Any) -> Iterator[tuple[int, Any]]:
        """Yield the answer of a call that has ended; none if it must be made again."""
        import ray

        attempt = self.running.pop(reference)
        try:
            answer = ray.get(reference, timeout=self._timeout_seconds)
        except ray.exceptions.RayTaskError as error:
            self._handle_failure(attempt, error)
        except ray.exceptions.OutOfDiskError:
            raise  # again, it would be no better
        except ray.exceptions.ObjectLostError as error:
            self._try_again(attempt, f"its answer was lost with its node ({error})")
        except ray.exceptions.RayError as error:
            self._try_again(attempt, f"its worker was lost ({error})")
        else:
            self._answers.add(attempt.sent)
            self._on_answer()
            yield attempt.number, [*attempt.kept, answer] if attempt.kept else answer

    def _handle_failure(self, attempt: _Attempt, error: Any) -> None:
        """Raise the error of a call, unless another attempt restores what it failed for."""
        import ray

        if isinstance(error.cause, (ClmleError, ray.exceptions.OutOfDiskError)):
            raise error.cause from None
        call = self._calls[attempt.number]
        if not isinstance(error.cause, ray.exceptions.ObjectLostError):
            raise ClusterError(
                f"{call.name} failed on a worker; the end of this says why: {error}"
            ) from error
        if any(isinstance(argument, ray.ObjectRef) for argument in call.arguments):
            raise InputLostError(str(error.cause)) from error
        # Ray keeps a large plain argument in an object store too; it is sent again.
        self._try_again(attempt, f"its arguments were lost ({error.cause})")

    def give_up_late_ones(self) -> None:
        """Cancel the calls whose time is up; they must be made again.

        Only those: Ray 2.60 may end the driver when it cancels a call that is just being sent to a
        worker, so calls that are merely not needed any more are left alone.
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
            raise lost_too_often(f"{name}: {reason}", attempt.retries + 1)
        logger.warning("%s: %s; trying again", name, reason)
        self.waiting.appendleft((attempt.number, attempt.retries + 1))


@lru_cache(maxsize=32)
def _remote(function: Callable[..., Any]) -> Any:
    """Cached by function: Ray sends each new one to all workers."""
    import ray

    return ray.remote(function)
