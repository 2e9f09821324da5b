"""`RUN/service.json`: what the clustering service is doing, and since when it is silent."""

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
from data_shards.errors import DataError, DiskError
from trainer.run.folder import RunFolder

logger = logging.getLogger(__name__)

RENEWED_SECONDS = 5.0
LONGEST_SILENCE_SECONDS = 60.0
"""A service whose heartbeat is older than this hangs."""

BUSY_STATES = ("embedding", "clustering")
"""States in which the service needs CPUs."""


def patience_seconds(config: ClusterConfig) -> float:
    """How long a working service may make no progress: one call, in all its attempts."""
    return config.call_timeout_seconds * (config.max_retries + 1)


class Heartbeat:
    """The service's side: writes its state, and renews the time while it works."""

    def __init__(self, run: RunFolder) -> None:
        self._path = run.service
        self._state: tuple[str, int | None] | None = None
        self._progress_at = time.monotonic()
        self._written_at = 0.0
        self._lock = threading.Lock()

    def __call__(self, state: str, version: int | None = None) -> None:
        """Write the state, unless the same was written just now.

        Args:
            state: waiting | embedding | clustering | publishing | done | stopped | failed; or
                GIVEN_UP, which `clmle run` writes in place of a service that it starts no more.
            version: of the tables that are being made.
        """
        with self._lock:
            self._progress_at = now = time.monotonic()
            if (state, version) == self._state and now - self._written_at < RENEWED_SECONDS:
                return
            self._state = (state, version)
            self._write()

    def progress(self) -> None:
        """Note that the work of this state makes progress; any thread may call this."""
        with self._lock:
            self._progress_at = time.monotonic()

    @property
    def state(self) -> str | None:
        """The last state; None before the first."""
        return None if self._state is None else self._state[0]

    @contextmanager
    def renewed(self, patience: float) -> Iterator[None]:
        """Inside the block a thread renews the time for as long as there is progress.

        Args:
            patience: seconds without progress, or another state, after which it stops renewing.
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
                if self._state is not None and late and now - self._progress_at < patience:
                    self._write()

    def _write(self) -> None:
        assert self._state is not None
        state, version = self._state
        self._written_at = time.monotonic()
        content = {"state": state, "version": version, "time": time.time(), "pid": os.getpid()}
        try:
            write_json(self._path, content)
        except (DiskError, OSError) as error:
            # It must not hide what else a full disk breaks; `HeartbeatWatch` notices the silence.
            logger.warning("no sign of life: %s", error)


class HeartbeatWatch:
    """The other side: the service's last state, and how long it has been silent."""

    def __init__(self, run: RunFolder) -> None:
        self.path = run.service
        self._seen: dict[str, Any] = {}
        self._seen_at = time.monotonic()

    def clear(self) -> None:
        """Forget an earlier service; the silence begins now."""
        self.path.unlink(missing_ok=True)
        self._seen, self._seen_at = {}, time.monotonic()

    def poll(self) -> None:
        """Read the file."""
        try:
            content = read_json(self.path)
        except DataError:
            return
        if content != self._seen:
            self._seen, self._seen_at = content, time.monotonic()

    @property
    def state(self) -> str | None:
        """The last state; None before the first."""
        return self._seen.get("state")

    @property
    def version(self) -> int | None:
        """Of the tables that are being made; None if none are."""
        return self._seen.get("version")

    @property
    def silent_seconds(self) -> float:
        """Since the last renewal, by this process's clock: time asleep does not count."""
        return time.monotonic() - self._seen_at
