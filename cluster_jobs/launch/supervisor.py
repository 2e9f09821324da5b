"""One training on this machine: its ranks, its clustering service, and the Ray below that.

Whatever ends one of them, nothing that was started here outlives it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster_jobs import machine
from cluster_jobs.errors import PartFailed
from cluster_jobs.launch import command_lines
from cluster_jobs.launch.log_warnings import LogWarnings
from cluster_jobs.launch.processes import Part, stop_all
from cluster_jobs.launch.screen_warnings import ScreenWarnings
from cluster_jobs.launch.shared_ray import SharedRay
from cluster_jobs.launch.training_progress import TrainingProgress
from cluster_jobs.service.heartbeat import LONGEST_SILENCE_SECONDS, Heartbeat, HeartbeatWatch
from clustering.table import store
from data_shards.atomic import read_json
from data_shards.cgroups import num_cores
from data_shards.errors import DataError
from trainer.config.run_config import RunConfig
from trainer.run.folder import GIVEN_UP, RunFolder

_POLL_SECONDS = 0.2
_MAKING_TABLES = ("embedding", "clustering", "publishing")
_MOST_RESTARTS = 2
_SERVICE_END_SECONDS = 10.0
# SIGTERM lets the ranks finish their step and save; together well below 30 seconds.
_TRAINER_GRACE_SECONDS = 15.0
_SERVICE_GRACE_SECONDS = 8.0


def is_finished(run: RunFolder) -> bool:
    """Whether a training run is finished: only then is there a readable report."""
    try:
        read_json(run.report)
    except DataError:
        return False
    return True


def _time_written(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return None


@dataclass(frozen=True)
class Training:
    """A training run that is to be done."""

    name: str
    """In its progress, and in the comparison."""
    config: RunConfig
    resume: str
    """As `--resume` of the trainer."""

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.config.run_path)


class Supervisor:
    """Starts, watches and ends the parts of one training run."""

    def __init__(
        self, training: Training, ray: SharedRay, *, devices: Sequence[str], screen: ScreenWarnings
    ) -> None:
        """Start the ranks; the service follows when Ray is up.

        Args:
            training: the run; its folder holds the configuration already.
            ray: shared with other training runs.
            devices: ids of the CUDA devices; empty on a machine without.
            screen: where warnings are shown.
        """
        config = training.config
        self._config = config
        self._run = training.folder
        self._ray = ray
        self._restarts = 0
        self._table_at_failure: int | None = None
        self._service: Part | None = None
        self._given_up = False
        self._heartbeat = HeartbeatWatch(self._run)
        self._heartbeat.clear()
        self._old_report = _time_written(self._run.report)
        self._progress = TrainingProgress(
            self._run.metrics, label=training.name, steps=config.train.steps
        )
        logs = [self._run.logs / name for name in ("trainer.log", "service.log")]
        self._warnings = LogWarnings(logs, screen, known=config.warnings())
        self._trainer = self._start_trainer(training.resume, devices)

    def finish(self) -> None:
        """Watch until the training run is finished; ends everything, whatever happens.

        Raises:
            PartFailed: a part failed; says which, with the end of its log.
        """
        try:
            while self._trainer.poll() is None:
                self._look()
                self._watch_service()
                self._check_life()
                time.sleep(_POLL_SECONDS)
            self._look()
            code = self._trainer.poll()
            # The launcher can end well although its ranks did not.
            if code or not self._has_new_report():
                raise self._trainer.failure(f"failed (exit code {code})")
            if self._service is not None:
                self._service.wait(_SERVICE_END_SECONDS)
        finally:
            self._progress.close()
            stop_all([part for part in (self._trainer, self._service) if part is not None])
            if self._given_up:
                self._heartbeat.clear()  # a trainer that is started by hand may have a service

    def _look(self) -> None:
        self._heartbeat.poll()
        self._progress.poll(self._phase())
        self._warnings.poll()

    def _phase(self) -> str:
        """What the run waits for while no step is done."""
        state, version = self._heartbeat.state, self._heartbeat.version
        between = self._progress.has_begun and not self._progress.is_through
        if state in _MAKING_TABLES:
            return (
                f"{state} for table {version}"
                if between
                else f"waiting for table {version} ({state})"
            )
        if between:
            return ""
        if not self._progress.is_through:
            return "starting"
        return "waiting for the clustering service" if state is None else "evaluating"

    def _has_new_report(self) -> bool:
        """Whether this training run, not an earlier one in the folder, is finished."""
        return _time_written(self._run.report) != self._old_report and is_finished(self._run)

    def _start_trainer(self, resume: str, devices: Sequence[str]) -> Part:
        config = self._config
        ranks = command_lines.num_ranks(config, devices)
        port = config.launch.master_port
        if port:
            machine.check_port(port)
        return Part(
            "trainer",
            command_lines.trainer_command(
                self._run.config,
                resume=resume,
                port=port or machine.free_port(),
                ranks=ranks,
                devices=devices,
            ),
            log=self._run.logs / "trainer.log",
            environment=command_lines.trainer_environment(
                config, share=max(1, num_cores() // ranks), on_gpu=bool(devices)
            ),
            grace_seconds=_TRAINER_GRACE_SECONDS,
        )

    def _watch_service(self) -> None:
        """Start the service when Ray is up; restart either when it fails, at most twice.

        A mistake that ends one before it works would do so again.
        """
        if self._given_up:
            return
        if (problem := self._ray.failure()) is not None:
            is_final = self._ray.was_mistaken
            self._restart_or_raise(problem, with_ray=True, is_final=is_final)
        elif self._service is None:
            # The service would end at an old report, which the trainer removes.
            if self._old_report is not None and _time_written(self._run.report) == self._old_report:
                return
            if (environment := self._ray.announced()) is not None:
                self._start_service(environment)
        elif self._has_new_report():
            return  # it may end, and has nothing more to say
        elif (code := self._service.poll()) is not None:
            problem = self._service.failure(f"ended early (exit code {code})")
            self._heartbeat.poll()
            is_final = self._service.was_mistaken and self._heartbeat.state is None
            self._restart_or_raise(problem, with_ray=False, is_final=is_final)
        elif self._heartbeat.silent_seconds > LONGEST_SILENCE_SECONDS and self._heartbeat.state:
            problem = self._service.failure(
                f"hangs: its heartbeat, {self._heartbeat.path}, was not renewed for "
                f"{LONGEST_SILENCE_SECONDS:g} s (last state: {self._heartbeat.state}); if it was "
                "at work, and merely slow, raise cluster.call_timeout_seconds"
            )
            self._restart_or_raise(problem, with_ray=False)

    def _start_service(self, ray_environment: dict[str, str]) -> None:
        self._heartbeat.clear()
        self._service = Part(
            "clustering service",
            command_lines.service_command(self._run.config),
            log=self._run.logs / "service.log",
            environment=command_lines.job_environment(ray_environment),
            grace_seconds=_SERVICE_GRACE_SECONDS,
        )

    def _restart_or_raise(
        self, problem: PartFailed, *, with_ray: bool, is_final: bool = False
    ) -> None:
        latest = store.latest_version(self._run.tables)
        if latest != self._table_at_failure:  # there was progress since
            self._restarts, self._table_at_failure = 0, latest
        self._restarts += 1
        self._given_up = is_final or self._restarts > _MOST_RESTARTS
        if self._given_up and self._config.refresh.on_late == "wait":
            raise problem
        then = "its table ages from now on" if self._given_up else "starting it again"
        sys.stderr.write(f"\nwarning: {problem}\ntraining continues; {then}\n")
        if self._service is not None:
            stop_all([self._service])
            self._service = None
            self._heartbeat.clear()
        if self._given_up:
            Heartbeat(self._run)(GIVEN_UP)  # or the ranks would wait at the end for a last table
        elif with_ray:
            self._ray.restart()

    def _check_life(self) -> None:
        timeout = self._config.launch.start_timeout_seconds
        what = f"gave no sign of life in {timeout:g} s (launch.start_timeout_seconds)"
        trainer, service = self._trainer, self._service
        if not trainer.has_output and time.monotonic() - trainer.started > timeout:
            raise trainer.failure(what)
        late = service is not None and time.monotonic() - service.started > timeout
        if service is not None and late and self._heartbeat.state is None:
            self._restart_or_raise(service.failure(what), with_ray=False)
