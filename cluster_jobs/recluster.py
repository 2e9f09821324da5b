"""The clustering service of a run: for each new snapshot, embeds, clusters and publishes tables.

    python -m cluster_jobs.recluster --config configs/digits.yaml
    ray job submit --working-dir . -- python -m cluster_jobs.recluster --config ...

It waits for the run's snapshots, always takes the newest, and ends when the run's report.json says
that the training is finished, or on SIGTERM. Start it before, with or after the trainer, again
after a failure, and one at a time. To train a finished run further, start the trainer first.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cluster_jobs.errors import JobError, run_job
from cluster_jobs.heartbeat import Heartbeat, patience_seconds
from cluster_jobs.local_ray import ray_session
from cluster_jobs.refresh import Refresher, Request, is_served, newest_request
from clustering.errors import ClusterError
from data_shards.errors import DataError
from data_shards.manifest import Manifest
from trainer.config import RunConfig
from trainer.config_file import config_parser, load_config, to_yaml
from trainer.errors import TrainingError
from trainer.run_folder import RunFolder
from trainer.snapshot import Snapshot, read_snapshot

logger = logging.getLogger(__name__)

_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_POLL_SECONDS = 0.2
_FAILURES = (ClusterError, DataError, JobError, OSError, TrainingError)


class Service:
    """Serves the requests of one run until its training is finished."""

    def __init__(self, config: RunConfig, manifest: Manifest, *, cpus: int) -> None:
        self._run = RunFolder(config.run_path.absolute())
        self.heartbeat = Heartbeat(self._run)
        self._served: Request | None = None
        self._at_work: Request | None = None
        self._refresher = Refresher(config, manifest, cpus=cpus, on_phase=self.heartbeat)

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
            self._refresher.serve(snapshot)

    def _serve_unless_overtaken(self, snapshot: Snapshot) -> None:
        try:
            self._refresher.serve(snapshot)
        except _FAILURES as error:
            if newest_request(self._run) == self._at_work:
                raise
            logger.warning("table %d is given up for a newer snapshot: %s", snapshot.step, error)

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


def main(argv: Sequence[str] | None = None) -> int:
    """The job."""
    options = _parse(argv)
    config = load_config(options.config, options.overrides)
    if options.dry_run:
        sys.stdout.write(to_yaml(config))
        return 0
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT, datefmt="%H:%M:%S")
    manifest = Manifest.load(config.data.shards)
    RunFolder(config.run_path).claim(config, fresh=False)
    gpus = config.launch.embed_gpus > 0
    with ray_session(num_cpus=config.launch.ray_cpus, gpus=gpus) as cpus, _sigterm_ends():
        service = Service(config, manifest, cpus=cpus)
        try:
            with service.heartbeat.renewed(patience_seconds(config.cluster)):
                service.serve_once() if options.once else service.serve()
        except SystemExit:
            service.heartbeat("stopped")
            raise
        except BaseException:
            service.heartbeat("failed")
            raise
        service.heartbeat("done")
    return 0


@contextmanager
def _sigterm_ends() -> Iterator[None]:
    """Inside the block, SIGTERM unwinds and ends the process well, wherever it is."""
    told = False

    def on_sigterm(number: int, frame: object) -> None:
        nonlocal told
        told = True
        sys.exit(0)

    former = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    except SystemExit:
        if told:
            sys.exit(0)  # Ray makes it another code when it waited for a task
        raise
    finally:
        signal.signal(signal.SIGTERM, former)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = config_parser("clmle recluster", __doc__)
    parser.add_argument("--once", action="store_true", help="serve the newest snapshot, then stop")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_job(main))
