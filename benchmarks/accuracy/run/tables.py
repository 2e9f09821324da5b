"""Cluster tables for a training run, made by a thread of its own process.

The clustering service's own code makes them, in this process instead of on Ray: a table's arrays
do not depend on who makes it, and a comparison of hundreds of short training runs should not start
hundreds of Ray clusters.
"""

from __future__ import annotations

import os
import threading
import time
import traceback

from cluster_jobs.service.executor import LocalExecutor
from cluster_jobs.service.refresh import Refresher
from cluster_jobs.service.table_requests import NewestRequest
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.run.folder import RunFolder

_POLL_SECONDS = 0.02
_FAILED = 70


class TableThread:
    """Serves a run's requests for tables while it is entered; a failure ends the process."""

    def __init__(self, config: RunConfig) -> None:
        """Prepare.

        Args:
            config: the run; its folder need not exist yet.
        """
        self._newest = NewestRequest(RunFolder(config.run_path.absolute()))
        manifest = Manifest.load(config.data.shards)
        self._refresher = Refresher(config, manifest, LocalExecutor(config.cluster))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name="tables", daemon=True)

    def __enter__(self) -> TableThread:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _guarded(self) -> None:
        try:
            self._serve_all()
        except Exception:  # noqa: BLE001 - otherwise training would wait for a table for ever
            traceback.print_exc()
            os._exit(_FAILED)

    def _serve_all(self) -> None:
        while not self._ended.is_set():
            snapshot = self._newest.take()
            if snapshot is None:
                time.sleep(_POLL_SECONDS)
            else:
                self._refresher.serve(snapshot)
