"""The Ray cluster of a command's training runs: started, watched, ended."""

from __future__ import annotations

import time
from pathlib import Path

from cluster_jobs.errors import PartFailed
from cluster_jobs.launch import command_lines
from cluster_jobs.launch.processes import Part
from cluster_jobs.ray_cluster.address import ray_address
from data_shards.atomic import read_json
from trainer.config.run_config import RunConfig

_GRACE_SECONDS = 6.0


class SharedRay:
    """The Ray that the training runs of this process share: its own, or that of RAY_ADDRESS."""

    def __init__(self, config: RunConfig, logs: Path) -> None:
        """Start it, unless RAY_ADDRESS names one; `announced` tells when it is up."""
        self._config = config
        self._logs = logs
        self._announcement = logs / "ray.json"
        self._part: Part | None = None
        self._environment: dict[str, str] | None = None
        if ray_address() is None:
            self.restart()
        else:
            self._environment = {}

    def restart(self) -> None:
        """Start our own; ends an earlier one first."""
        self.stop()
        self._environment = None
        self._announcement.unlink(missing_ok=True)
        self._part = Part(
            "local Ray",
            command_lines.ray_command(self._config, self._announcement),
            log=self._logs / "ray.log",
            environment=command_lines.job_environment({}),
            grace_seconds=_GRACE_SECONDS,
        )

    def announced(self) -> dict[str, str] | None:
        """The environment variables by which a process reaches Ray; None while it starts."""
        if self._environment is None and self._announcement.exists():
            self._environment = dict(read_json(self._announcement))
        return self._environment

    def failure(self) -> PartFailed | None:
        """Why it cannot be used any more; None while it can."""
        part = self._part
        if part is None:
            return None
        if part.poll() is not None:
            return part.failure(f"ended with exit code {part.poll()}")
        timeout = self._config.launch.start_timeout_seconds
        if self.announced() is None and time.monotonic() - part.started > timeout:
            return part.failure(f"did not start in {timeout:g} s (launch.start_timeout_seconds)")
        return None

    @property
    def was_mistaken(self) -> bool:
        """Whether it ended by a mistake, which would end it again."""
        return self._part is not None and self._part.was_mistaken

    def stop(self) -> None:
        """End our own."""
        if self._part is not None:
            self._part.stop()

    def __enter__(self) -> SharedRay:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
