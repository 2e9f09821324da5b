"""Ray actors that hold the shares of a class, each on a CPU of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from clustering.backends import one_thread
from clustering.errors import ClusterError
from clustering.sharded_kmeans import ShareWork, open_share
from clustering.shares import Share
from data_shards.errors import DataError

# `ray` is imported in functions: it reads its environment then, which a job sets up first.

_LARGE_BYTES = 100_000  # arguments from this size on are sent once, not once an actor


class ActorLostError(Exception):
    """An actor died, or did not answer in time."""


class ShareHolder:
    """What runs in an actor: one share at a time."""

    def __init__(self) -> None:
        self._share: Share | None = None

    def open(self, work: ShareWork) -> None:
        """Hold another share."""
        self._share = open_share(work)

    def call(self, method: str, *arguments: Any) -> tuple[float, Any]:
        """Call a method of the share; the seconds that it took, and its answer."""
        started = time.monotonic()
        with one_thread():
            answer = getattr(self._share, method)(*arguments)
        return time.monotonic() - started, answer


class ActorPool:
    """Actors that stay for one class after the other: a new process takes a second to start."""

    def __init__(self, num_actors: int, *, num_gpus: float, timeout_seconds: float) -> None:
        """Start the actors.

        Args:
            num_actors: how many, each of one CPU.
            num_gpus: share of a GPU for each.
            timeout_seconds: to wait for an answer.
        """
        import ray

        holder: Any = ray.remote(num_cpus=1, num_gpus=num_gpus)(ShareHolder)
        self._actors = [holder.remote() for _ in range(num_actors)]
        self._timeout_seconds = timeout_seconds

    def group(self, works: Sequence[ShareWork], *, dim: int) -> RayGroup:
        """Have the first actors hold the shares of a class, one each.

        Raises:
            ActorLostError: one is lost or late.
        """
        actors = self._actors[: len(works)]
        num_rows = sum(len(work.positions) for work in works)
        group = RayGroup(actors, num_rows, dim, self._timeout_seconds)
        group.answers([actor.open.remote(work) for actor, work in zip(actors, works, strict=True)])
        return group

    def close(self) -> None:
        """End the actors, also those that hang."""
        import ray

        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        self._actors = []


class RayGroup:
    """Shares in actors; a `clustering.kmeans.Group`."""

    def __init__(
        self, actors: Sequence[Any], num_rows: int, dim: int, timeout_seconds: float
    ) -> None:
        self._actors = actors
        self.num_rows = num_rows
        self.dim = dim
        self.seconds = 0.0
        self._timeout_seconds = timeout_seconds

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of every share at once.

        Raises:
            ActorLostError: an actor is lost or late.
            ClusterError, DataError: what a share says.
        """
        import ray

        sent = [
            ray.put(argument) if getattr(argument, "nbytes", 0) > _LARGE_BYTES else argument
            for argument in arguments
        ]
        answers = self.answers([actor.call.remote(method, *sent) for actor in self._actors])
        self.seconds += sum(seconds for seconds, _ in answers)
        return [answer for _, answer in answers]

    def answers(self, references: list[Any]) -> list[Any]:
        """Wait for all; see `call`."""
        import ray

        try:
            return list(ray.get(references, timeout=self._timeout_seconds))
        except ray.exceptions.GetTimeoutError:
            raise ActorLostError(f"no answer in {self._timeout_seconds:g} s") from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, (ClusterError, DataError)):
                raise error.cause from None
            raise ClusterError(f"a share of a class failed: {error}") from error
        except ray.exceptions.RayError as error:
            raise ActorLostError(f"its worker was lost ({error})") from error
