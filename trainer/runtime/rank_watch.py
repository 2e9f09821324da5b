"""Ends a rank that waits for another that will never answer.

A rank whose host has lost its power, or that was stopped, closes no connection: those that wait for
it sit in a collective, where no Python code of theirs runs. So each rank has two threads. One gives
signs of life, and reads those of the others; the other ends the process when one of them has been
silent for too long. A rank that is merely busy, with an evaluation or a checkpoint, is not silent.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist

from data_shards.errors import exit_code_and_message, named
from trainer.errors import LostRanks
from trainer.runtime.silence import AwakeClock, Sign, Silence
from trainer.runtime.stop import end_process
from trainer.runtime.world import World, first_line, is_lost_connection

_LONGEST_INTERVAL_SECONDS = 5.0
_AGAIN = "then start the same command again: it resumes from the newest checkpoint"


class RankWatch:
    """The watch of one rank over the others."""

    def __init__(
        self, world: World, limit_seconds: float, *, end: Callable[[LostRanks], None] | None = None
    ) -> None:
        """Watch nobody yet.

        Args:
            world: the ranks; their process group runs.
            limit_seconds: silence after which a rank counts as lost.
            end: called once with what was found, in a thread; by default it ends the process.
        """
        self._world = world
        self._limit = limit_seconds
        self._end = end or self._end_process
        self._interval = min(limit_seconds / 20, _LONGEST_INTERVAL_SECONDS)
        self._closing = threading.Event()
        self._host = socket.gethostname()
        self._place = "the start"
        self._number = 0

    def at(self, place: str) -> None:
        """Note what this rank does from now on.

        Args:
            place: as it follows "during" in a message, such as "step 13".
        """
        self._place = place

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch inside the block. Every rank must enter it.

        Raises:
            LostRanks: in place of an error which says that a collective got no answer.
        """
        if self._world.size == 1:
            yield
            return
        self._board = _Board(self._world, self._limit)
        self._board.give(self._sign())
        self._world.barrier()
        self._clock = AwakeClock(time.monotonic(), longest_tick=self._limit / 2)
        self._silence = Silence(self._board.read(), self._clock.seconds)
        threads = [
            threading.Thread(target=work, daemon=True, name=work.__name__.strip("_"))
            for work in (self._exchange_signs, self._look_for_silence)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        except RuntimeError as error:
            if not is_lost_connection(error):
                raise
            raise LostRanks(self._failed_collective(error)) from error
        finally:
            self._closing.set()
            for thread in threads:
                thread.join(self._interval)

    def _sign(self) -> Sign:
        self._number += 1
        return Sign(self._number, self._host, self._place)

    def _exchange_signs(self) -> None:
        with suppress(RuntimeError):  # the store is gone: from now on rank 0 is silent
            while not self._closing.wait(self._interval):
                self._board.give(self._sign())
                self._silence.hear(self._board.read(), self._clock.seconds)

    def _look_for_silence(self) -> None:
        while not self._closing.wait(self._interval):
            self._clock.tick(time.monotonic())
            seconds = self._silence.seconds(self._clock.seconds)
            silent = [rank for rank, silence in enumerate(seconds) if silence >= self._limit]
            if silent:
                self._end(LostRanks(self._no_sign(silent)))
                return

    def _no_sign(self, silent: list[int]) -> str:
        names = named([f"rank {rank} on {self._silence.signs[rank].host}" for rank in silent])
        return (
            f"during {self._place}, no sign of life from {names} for {self._limit:g} s "
            "(train.communication_timeout_seconds); see whether the host runs and what the log "
            f"there says, {_AGAIN}"
        )

    def _failed_collective(self, error: RuntimeError) -> str:
        seconds = self._silence.seconds(self._clock.seconds)
        others = [rank for rank in range(self._world.size) if rank != self._world.rank]
        others.sort(key=lambda rank: -seconds[rank])
        signs = self._silence.signs
        last = [
            f"rank {rank} on {signs[rank].host} {seconds[rank]:.0f} s ago, during "
            f"{signs[rank].place}"
            for rank in others
        ]
        return (
            f"during {self._place}, a collective failed ({first_line(error)}); last signs of life: "
            f"{named(last)}; see what the logs of these ranks say, {_AGAIN}"
        )

    def _end_process(self, error: LostRanks) -> None:
        code, message = exit_code_and_message(error)
        line = f"rank {self._world.rank}: {message}\n"
        sys.stderr.write(f"\n{line}" if sys.stderr.isatty() else line)  # after a progress bar
        end_process(code)


class _Board:
    """Where the ranks leave their signs: the store where they met, in rank 0's process."""

    def __init__(self, world: World, limit_seconds: float) -> None:
        self._mine, self._keys = _key(world.rank), [_key(rank) for rank in range(world.size)]
        # A connection of its own: one that hangs must not hold up the collectives.
        self._store = dist.TCPStore(  # type: ignore[attr-defined]  # torch does not list it
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=limit_seconds),
        )
        self._store.set_timeout(timedelta(days=1))  # the watch looks at the time itself

    def give(self, sign: Sign) -> None:
        self._store.set(self._mine, sign.to_text())

    def read(self) -> list[Sign]:
        return [Sign.from_text(text) for text in self._store.multi_get(self._keys)]


def _key(rank: int) -> str:
    return f"sign_of_life/{rank}"
