"""`RUN/service.json`: what the clustering service is doing, and when it last said so."""

from __future__ import annotations

import os
import time

from data_shards.atomic import read_json, write_json
from data_shards.errors import DataError
from trainer.run_folder import RunFolder

_EVERY_SECONDS = 5.0


class Heartbeat:
    """Written by the service, read by whoever watches it."""

    def __init__(self, run: RunFolder) -> None:
        self._path = run.path / "service.json"
        self._said: tuple[str, int | None] | None = None
        self._last = 0.0

    def __call__(self, state: str, version: int | None = None) -> None:
        """Say it, unless it was said just now.

        Args:
            state: waiting | embedding | clustering | publishing | done | stopped | failed.
            version: of the tables that are being made.
        """
        now = time.time()
        if (state, version) == self._said and now - self._last < _EVERY_SECONDS:
            return
        self._said, self._last = (state, version), now
        content = {"state": state, "version": version, "time": now, "pid": os.getpid()}
        write_json(self._path, content)

    def state(self) -> str | None:
        """What was said last; None before the first."""
        try:
            return str(read_json(self._path).get("state"))
        except DataError:
            return None

    def clear(self) -> None:
        """Forget what an earlier service said."""
        self._path.unlink(missing_ok=True)
