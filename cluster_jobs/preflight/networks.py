"""Asks torch, in a process of its own, whether the networks of a run can be built here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster_jobs.errors import JobError
from data_shards.errors import ConfigError
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.config.tasks import classes_of_tasks
from trainer.run.network import NetworkSettings

_PROGRAM = "trainer.state.network_check"
_LINES_SHOWN = 5


@dataclass(frozen=True)
class Networks:
    """What torch says of the networks of some runs."""

    num_parameters: tuple[int, ...]
    """Of each."""
    warnings: tuple[str, ...]
    """Of precisions that are slow here."""


def check_networks(configs: Sequence[RunConfig], manifest: Manifest) -> Networks:
    """Check that the networks of runs can be built, and that the weights they start from fit.

    Args:
        configs: runs that start from their first step.
        manifest: of their shards.

    Raises:
        ConfigError: a backbone cannot be built here, or weights do not fit.
        JobError: torch does not answer.
    """
    if not configs:
        return Networks((), ())
    asked = {
        "networks": [
            (asdict(NetworkSettings.of(c, classes_of_tasks(c, manifest))), c.model.weights)
            for c in configs
        ],
        "precisions": sorted({c.train.precision for c in configs}),
    }
    answer = _ask(json.dumps(asked), max(c.launch.start_timeout_seconds for c in configs))
    if "error" in answer:
        raise ConfigError(answer["error"])
    return Networks(tuple(answer["num_parameters"]), tuple(answer["warnings"]))


def _ask(question: str, timeout_seconds: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", _PROGRAM],
            input=question,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise JobError(
            f"torch did not build the network in {timeout_seconds:g} s; look at memory and load, "
            "or raise launch.start_timeout_seconds"
        ) from error
    if done.returncode:
        end = "\n".join(done.stderr.splitlines()[-_LINES_SHOWN:])
        raise JobError(f"torch cannot build the network here; `clmle doctor` checks it:\n{end}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
