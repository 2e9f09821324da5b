"""The clustering service: serves a run's requests for tables, always the newest."""

from __future__ import annotations

import logging
import time

from cluster_jobs.errors import JobError
from cluster_jobs.service.heartbeat import Heartbeat
from cluster_jobs.service.metrics import ServiceMetrics
from cluster_jobs.service.refresh import Refresher
from cluster_jobs.service.table_requests import Request, is_served, newest_request, waiting_requests
from clustering.errors import ClusterError
from data_shards.errors import DataError
from data_shards.shards.manifest import Manifest
from trainer.config.errors import TrainingError
from trainer.config.run_config import RunConfig
from trainer.run.folder import RunFolder
from trainer.state.snapshot import Snapshot, read_snapshot

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_FAILURES = (ClusterError, DataError, JobError, OSError, TrainingError)


class Service:
    """Serves the requests of one run until its training is finished. A context manager."""

    def __init__(self, config: RunConfig, manifest: Manifest) -> None:
        self._run = RunFolder(config.run_path.absolute())
        self.heartbeat = Heartbeat(self._run)
        self._metrics = ServiceMetrics(self._run)
        self._served: Request | None = None
        self._at_work: Request | None = None
        self._refresher = Refresher(
            config, manifest, on_phase=self.heartbeat, on_progress=self.heartbeat.progress
        )

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *error: object) -> None:
        self._metrics.close()

    def serve(self) -> None:
        """Poll for snapshots and serve the newest, to the end of the training.

        A snapshot of the last step is no end: an earlier attempt may have written it.
        """
        while True:
            self.heartbeat("waiting")
            snapshot = self._unserved()
            if snapshot is not None:
                self._serve_unless_overtaken(snapshot)
            elif self._run.report.exists():
                logger.info("%s says that the training is finished", self._run.report)
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
        snapshot = self._unserved()
        if snapshot is None:
            logger.info("the table of the newest snapshot is already published")
        else:
            self._serve(snapshot)

    def _serve_unless_overtaken(self, snapshot: Snapshot) -> None:
        try:
            self._serve(snapshot)
        except _FAILURES as error:
            if newest_request(self._run) == self._at_work:
                raise
            logger.warning("table %d is given up for a newer snapshot: %s", snapshot.step, error)

    def _serve(self, snapshot: Snapshot) -> None:
        self._metrics.taken_up(waiting_requests(self._run), self._at_work)
        measured = self._refresher.serve(snapshot)
        self._metrics.published(snapshot.step, measured)

    def _unserved(self) -> Snapshot | None:
        request = newest_request(self._run)
        if request is None or request == self._served:
            return None
        try:
            snapshot = read_snapshot(request.folder)
        except TrainingError:
            if newest_request(self._run) != request:
                return None  # replaced or removed while it was read
            raise
        if is_served(self._run, snapshot):
            self._served = request
            return None
        self._at_work = request
        return snapshot
