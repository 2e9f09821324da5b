"""`RUN/service.json`: what the clustering service is doing, and when it last said so."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clustering.config import ClusterConfig
from data_shards.atomic import read_json, write_json
from data_shards.errors import DataError
from trainer.run.folder import RunFolder

logger = logging.getLogger(__name__)

RENEWED_SECONDS = 5.0
LONGEST_SILENCE_SECONDS = 60.0
"""A heartbeat that is not renewed for longer belongs to a service that hangs."""


BUSY_STATES = ("embedding", "clustering")
"""In which the service has work for Ray."""


def patience_seconds(config: ClusterConfig) -> float:
    """How long a working service may make no progress: the time of a task, in all its attempts."""
    return config.call_timeout_seconds * (config.max_retries + 1)


class Heartbeat:
    """The service's side: says what it does, and renews that while it does it."""

    def __init__(self, run: RunFolder) -> None:
        self._path = run.service
        self._said: tuple[str, int | None] | None = None
        self._said_at = time.monotonic()
        self._written_at = 0.0
        self._lock = threading.Lock()

    def __call__(self, state: str, version: int | None = None) -> None:
        """Say it, unless it was said just now.

        Args:
            state: waiting | embedding | clustering | publishing | done | stopped | failed; or
                GIVEN_UP, which `clmle run` says in the service's place.
            version: of the tables that are being made.
        """
        with self._lock:
            self._said_at = now = time.monotonic()
            if (state, version) == self._said and now - self._written_at < RENEWED_SECONDS:
                return
            self._said = (state, version)
            self._write()

    def progress(self) -> None:
        """What was said last goes on, and `renewed` may say so; any thread may call this."""
        with self._lock:
            self._said_at = time.monotonic()

    @property
    def state(self) -> str | None:
        """What was said last; None before the first."""
        return None if self._said is None else self._said[0]

    @contextmanager
    def renewed(self, patience: float) -> Iterator[None]:
        """Inside the block a thread renews the time, as long as the caller seems to work.

        Args:
            patience: seconds after the last call, or the last `progress`, from which on nothing is
                renewed.
        """
        ended = threading.Event()
        thread = threading.Thread(
            target=self._renew, args=(ended, patience), name="heartbeat", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _renew(self, ended: threading.Event, patience: float) -> None:
        while not ended.wait(RENEWED_SECONDS):
            with self._lock:
                now = time.monotonic()
                late = now - self._written_at >= RENEWED_SECONDS
                if self._said is not None and late and now - self._said_at < patience:
                    self._write()

    def _write(self) -> None:
        assert self._said is not None
        state, version = self._said
        self._written_at = time.monotonic()
        content = {"state": state, "version": version, "time": time.time(), "pid": os.getpid()}
        try:
            write_json(self._path, content)
        except OSError as error:
            # It must not hide what else a full disk breaks; whoever watches notices the silence.
            logger.warning("cannot write %s: %s", self._path, error)


class HeartbeatWatch:
    """The other side: what the service said last, and for how long it has been silent."""

    def __init__(self, run: RunFolder) -> None:
        self.path = run.service
        self._seen: dict[str, Any] = {}
        self._seen_at = time.monotonic()

    def clear(self) -> None:
        """Forget what an earlier service said; the silence begins now."""
        self.path.unlink(missing_ok=True)
        self._seen, self._seen_at = {}, time.monotonic()

    def poll(self) -> None:
        """Look."""
        try:
            content = read_json(self.path)
        except DataError:
            return
        if content != self._seen:
            self._seen, self._seen_at = content, time.monotonic()

    @property
    def state(self) -> str | None:
        """What was said last; None before the first."""
        return self._seen.get("state")

    @property
    def version(self) -> int | None:
        """Of the tables that are being made; None if none are."""
        return self._seen.get("version")

    @property
    def silent_seconds(self) -> float:
        """Since the last renewal, by this process's clock: a suspended machine counts nothing."""
        return time.monotonic() - self._seen_at
