"""Ends a job in bounded time when the Ray below it is gone.

Ray itself waits forever for the CPUs of a lost node, and a minute for its head; then it ends the
process without a message that a user could act on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from cluster_jobs.errors import PartFailed

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 25.0
"""How long Ray may be silent, or without a CPU; its own notice of a lost node takes as long."""

_POLL_SECONDS = 1.0
_UNWIND_SECONDS = 8.0
_SIGNAL = signal.SIGUSR1


@contextmanager
def watched_ray(is_busy: Callable[[], bool], on_lost: Callable[[], None]) -> Iterator[None]:
    """Inside the block, in the main thread, raise when Ray does not answer or has no CPU left.

    If a call into Ray does not return, the process is ended with the same message.

    Args:
        is_busy: whether CPUs are needed just now.
        on_lost: called before the process is ended in that way.

    Raises:
        PartFailed: Ray is gone.
    """
    watch = _Watch(is_busy, on_lost)
    previous = signal.signal(_SIGNAL, watch.on_signal)
    threads = [
        threading.Thread(target=target, name="ray watch", daemon=True)
        for target in (watch.ask, watch.judge)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    except Exception as error:
        if watch.problem is not None and not isinstance(error, PartFailed):
            raise PartFailed(watch.problem) from error  # Ray wraps it while it waits
        raise
    finally:
        watch.ended.set()
        threads[1].join()  # the other may be waiting for Ray
        signal.signal(_SIGNAL, previous)


class _Watch:
    """One thread asks Ray, another checks how long ago the last good answer came."""

    def __init__(self, is_busy: Callable[[], bool], on_lost: Callable[[], None]) -> None:
        self.ended = threading.Event()
        self._is_busy = is_busy
        self._on_lost = on_lost
        self._answered_at = self._had_cpu_at = time.monotonic()
        self.problem: str | None = None

    def ask(self) -> None:
        """Keep asking Ray for its CPUs."""
        import ray

        while not self.ended.wait(_POLL_SECONDS):
            try:
                cpus = ray.cluster_resources().get("CPU", 0)
            except Exception as error:  # noqa: BLE001 - of any kind while Ray goes down
                logger.debug("Ray does not answer: %s", error)
                continue
            self._answered_at = time.monotonic()
            if cpus >= 1 or not self._is_busy():
                self._had_cpu_at = self._answered_at

    def judge(self) -> None:
        """Interrupt the main thread when Ray is lost; end the process if that takes too long."""
        while not self.ended.wait(_POLL_SECONDS):
            self.problem = self._what_is_wrong()
            if self.problem is not None:
                break
        else:
            return
        signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)
        if not self.ended.wait(_UNWIND_SECONDS):
            self._end_process()

    def on_signal(self, number: int, frame: object) -> None:
        """Raise the problem in the main thread."""
        if self.problem is not None:
            raise PartFailed(self.problem)

    def _what_is_wrong(self) -> str | None:
        now = time.monotonic()
        if now - self._answered_at > PATIENCE_SECONDS:
            return (
                f"Ray has not answered for {PATIENCE_SECONDS:g} s; is its head (gcs_server) gone? "
                "Start Ray again, then this job: finished work is kept"
            )
        if now - self._had_cpu_at > PATIENCE_SECONDS:
            return (
                f"Ray has had no CPU for {PATIENCE_SECONDS:g} s: its worker nodes are gone; start "
                "one (`ray start --address ...`), then this job again: finished work is kept"
            )
        return None

    def _end_process(self) -> None:
        self._on_lost()
        sys.stderr.write(f"error: {self.problem}\n")
        sys.stderr.flush()
        for child in psutil.Process().children(recursive=True):  # of a Ray of our own
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        os._exit(PartFailed.exit_code)
