"""The clustering service: serves a run's requests for tables, always the newest."""

from __future__ import annotations

import logging
import time

from cluster_jobs.errors import JobError
from cluster_jobs.service.executor import Executor
from cluster_jobs.service.heartbeat import Heartbeat
from cluster_jobs.service.metrics import ServiceMetrics
from cluster_jobs.service.refresh import Refresher
from cluster_jobs.service.table_requests import NewestRequest, newest_request, waiting_requests
from clustering.errors import ClusterError
from data_shards.errors import DataError, DiskError
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.errors import TrainingError
from trainer.run.folder import RunFolder
from trainer.state.snapshot import Snapshot

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_FAILURES = (ClusterError, DataError, DiskError, JobError, OSError, TrainingError)


class Service:
    """Serves the requests of one run until its training run is finished. A context manager."""

    def __init__(self, config: RunConfig, manifest: Manifest, executor: Executor) -> None:
        self._run = RunFolder(config.run_path.absolute())
        self.heartbeat = Heartbeat(self._run)
        self._metrics = ServiceMetrics(self._run)
        self._newest = NewestRequest(self._run)
        self._refresher = Refresher(
            config, manifest, executor, on_phase=self.heartbeat, on_progress=self.heartbeat.progress
        )

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *error: object) -> None:
        self._metrics.close()

    def serve(self) -> None:
        """Poll for snapshots and serve the newest, until the training run is finished.

        A snapshot of the last step does not end it: an earlier attempt may have written that.
        """
        while True:
            self.heartbeat("waiting")
            snapshot = self._newest.take()
            if snapshot is not None:
                self._serve_unless_overtaken(snapshot)
            elif self._run.report.exists():
                logger.info("%s exists, so the training run is finished", self._run.report)
                return
            else:
                time.sleep(_POLL_SECONDS)

    def serve_once(self) -> None:
        """Serve the newest snapshot, unless that is done.

        Raises:
            JobError: there is no snapshot.
        """
        if newest_request(self._run) is None:
            raise JobError(f"{self._run.path} has no snapshot; start the training first")
        snapshot = self._newest.take()
        if snapshot is None:
            logger.info("the table of the newest snapshot is already published")
        else:
            self._serve(snapshot)

    def _serve_unless_overtaken(self, snapshot: Snapshot) -> None:
        try:
            self._serve(snapshot)
        except _FAILURES as error:
            if not self._newest.is_overtaken():
                raise
            logger.warning("table %d is given up for a newer snapshot: %s", snapshot.step, error)

    def _serve(self, snapshot: Snapshot) -> None:
        self._metrics.taken(waiting_requests(self._run), self._newest.taken)
        measured = self._refresher.serve(snapshot)
        self._metrics.published(snapshot.step, measured)
