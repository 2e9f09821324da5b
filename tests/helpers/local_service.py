"""The clustering service of a run without Ray: a thread that really embeds and clusters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cluster_jobs.service.executor import LocalExecutor
from cluster_jobs.service.refresh import Refresher
from cluster_jobs.service.table_requests import NewestRequest
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.run.folder import RunFolder

_POLL_SECONDS = 0.02


class LocalService:
    """Use as a context, or with `start` and `stop`; may be started again after a stop."""

    def __init__(
        self,
        config: RunConfig,
        *,
        before_serving: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Prepare to serve one run.

        Args:
            config: the run; its folder need not exist yet.
            before_serving: called with the step of each snapshot before the newest is looked for
                again, so it may delay.
        """
        self._newest = NewestRequest(RunFolder(config.run_path.absolute()))
        manifest = Manifest.load(config.data.shards)
        self._refresher = Refresher(config, manifest, LocalExecutor(config.cluster))
        self._before_serving = before_serving
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self.served: list[int] = []
        """Versions in the order in which they were published."""

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._guarded, name="local service")
        self._thread.start()

    def stop(self) -> None:
        """Stop between two tables; raises the error that ended the service, if one did."""
        assert self._thread is not None
        self._stopping.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> LocalService:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _guarded(self) -> None:
        try:
            while not self._stopping.is_set():
                snapshot = self._newest.take()
                if snapshot is None:
                    time.sleep(_POLL_SECONDS)
                    continue
                self._before_serving(snapshot.step)
                snapshot = self._newest.take() or snapshot
                self._refresher.serve(snapshot)
                self.served.append(snapshot.step)
        except Exception as error:  # noqa: BLE001 - `stop` raises it in the test
            self._error = error
