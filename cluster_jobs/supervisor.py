"""One training on this machine: its ranks, its clustering service, and the Ray below that.

Whatever happens to one of them, nothing that was started here outlives the others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from cluster_jobs import launch, machine
from cluster_jobs.errors import PartFailed
from cluster_jobs.heartbeat import Heartbeat
from cluster_jobs.processes import Part, stop_all
from cluster_jobs.ray_part import RayPart
from cluster_jobs.training_progress import TrainingProgress
from data_shards.atomic import read_json
from data_shards.errors import DataError
from trainer.config import RunConfig
from trainer.run_folder import RunFolder

_POLL_SECONDS = 0.2
_MOST_RESTARTS = 2
_SERVICE_END_SECONDS = 10.0
# SIGTERM lets the ranks finish their step and save; together well below 30 seconds.
_TRAINER_GRACE_SECONDS = 15.0
_SERVICE_GRACE_SECONDS = 8.0


def is_finished(run: RunFolder) -> bool:
    """Whether a training reached its end: then, and only then, a readable report is there."""
    try:
        read_json(run.report)
    except DataError:
        return False
    return True


class Supervisor:
    """Starts the parts of one training, watches them, ends them."""

    def __init__(
        self, config: RunConfig, ray: RayPart, *, label: str, resume: str, devices: Sequence[str]
    ) -> None:
        """Start the ranks; the service follows when Ray is up.

        Args:
            config: the run; its folder holds the configuration already.
            ray: shared with other trainings.
            label: what the progress is called.
            resume: as `--resume` of the trainer.
            devices: ids of the CUDA devices; empty on a machine without.
        """
        self._config = config
        self._run = RunFolder(config.run_path)
        self._ray = ray
        self._restarts = 0
        self._service: Part | None = None
        self._given_up = False
        self._heartbeat = Heartbeat(self._run)
        self._heartbeat.clear()
        self._progress = TrainingProgress(self._run.metrics, label=label, steps=config.train.steps)
        self._trainer = self._start_trainer(resume, devices)

    def finish(self) -> None:
        """Watch until the training is finished; ends everything, whatever happens.

        Raises:
            PartFailed: a part failed; says which, with the end of its log.
        """
        try:
            while self._trainer.poll() is None:
                self._progress.poll()
                self._watch_service()
                self._check_life()
                time.sleep(_POLL_SECONDS)
            self._progress.poll()
            code = self._trainer.poll()
            # The launcher can end well although its ranks did not.
            if code or not is_finished(self._run):
                raise self._trainer.failure(f"failed (exit code {code})")
            if self._service is not None:
                self._service.wait(_SERVICE_END_SECONDS)
        finally:
            self._progress.close()
            stop_all([part for part in (self._trainer, self._service) if part is not None])

    def _start_trainer(self, resume: str, devices: Sequence[str]) -> Part:
        config = self._config
        ranks = launch.num_ranks(config, devices)
        port = config.launch.master_port
        if port:
            machine.check_port(port)
        threads = config.launch.threads_per_rank or max(1, machine.num_cores() // ranks)
        return Part(
            "trainer",
            launch.trainer_command(
                self._run.config,
                resume=resume,
                port=port or machine.free_port(),
                ranks=ranks,
                devices=devices,
            ),
            log=self._run.logs / "trainer.log",
            environment=launch.trainer_environment(threads, on_gpu=bool(devices)),
            grace_seconds=_TRAINER_GRACE_SECONDS,
        )

    def _watch_service(self) -> None:
        """Start the service when Ray is up; do what `refresh.on_late` says when either fails."""
        if self._given_up:
            return
        if (problem := self._ray.failure()) is not None:
            self._restart_or_raise(problem, with_ray=True)
        elif self._service is None:
            if (environment := self._ray.announced()) is not None:
                self._start_service(environment)
        elif (code := self._service.poll()) is not None and self._heartbeat.state() != "done":
            problem = self._service.failure(f"ended early (exit code {code})")
            self._restart_or_raise(problem, with_ray=False)

    def _start_service(self, ray_environment: dict[str, str]) -> None:
        self._service = Part(
            "clustering service",
            launch.service_command(self._run.config),
            log=self._run.logs / "service.log",
            environment=launch.job_environment(ray_environment),
            grace_seconds=_SERVICE_GRACE_SECONDS,
        )

    def _restart_or_raise(self, problem: PartFailed, *, with_ray: bool) -> None:
        if self._config.refresh.on_late == "wait":
            raise problem
        self._restarts += 1
        self._given_up = self._restarts > _MOST_RESTARTS
        then = "its table ages from now on" if self._given_up else "starting it again"
        sys.stderr.write(f"\nwarning: {problem}\ntraining goes on; {then}\n")
        if self._service is not None:
            stop_all([self._service])
            self._service = None
        if with_ray and not self._given_up:
            self._ray.restart()

    def _check_life(self) -> None:
        timeout = self._config.launch.start_timeout_seconds
        for part in filter(None, (self._trainer, self._service)):
            if not part.has_output and time.monotonic() - part.started > timeout:
                setting = "launch.start_timeout_seconds"
                raise part.failure(f"gave no sign of life in {timeout:g} s ({setting})")
