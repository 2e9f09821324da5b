"""The command lines of a run's parts, and their environments."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster_jobs.errors import JobError
from trainer.config.run_config import RunConfig
from trainer.runtime.launcher import without_launcher


def num_ranks(config: RunConfig, devices: Sequence[str]) -> int:
    """Number of ranks to start: as configured, but at most one per CUDA device if there are any.

    Args:
        config: the run; batches do not depend on the number of ranks.
        devices: ids of the CUDA devices; empty on a machine without.

    Raises:
        JobError: the wanted number does not divide the micro-batches of a step.
    """
    wanted, micro_batches = config.launch.num_ranks, config.sampler.micro_batches
    if micro_batches % wanted:
        raise JobError(
            f"launch.num_ranks {wanted} does not divide sampler.micro_batches {micro_batches}; "
            "set one of them so that every rank gets the same number"
        )
    most = min(wanted, len(devices)) if devices else wanted
    return max(n for n in range(1, most + 1) if micro_batches % n == 0)


def trainer_command(
    config_file: Path, *, resume: str, port: int, ranks: int, devices: Sequence[str]
) -> list[str]:
    """DeepSpeed's launcher of one node, with one rank per device.

    It is the process that the `deepspeed` command starts on each host. That command is left out
    here: it does not pass SIGTERM on, so the ranks could not save a checkpoint.
    """
    ids: list[object] = list(devices[:ranks]) or list(range(ranks))
    world = base64.urlsafe_b64encode(json.dumps({"localhost": ids}).encode()).decode()
    return [
        *(sys.executable, "-m", "deepspeed.launcher.launch", "--quiet"),
        *(f"--world_info={world}", "--master_addr=127.0.0.1", f"--master_port={port}"),
        *("--module", "trainer.train", "--config", str(config_file), "--resume", resume),
    ]


def trainer_environment(config: RunConfig, *, share: int, on_gpu: bool) -> dict[str, str]:
    """The environment of the ranks: this one, quiet, without Ray's and a launcher's around it.

    Args:
        config: the run; `launch.threads_per_rank` wins over OMP_NUM_THREADS of this process, which
            wins over the rank's share.
        share: of the machine's cores, for each rank.
        on_gpu: whether the ranks train on CUDA devices.
    """
    around = without_launcher(os.environ)
    environment = {k: v for k, v in around.items() if not k.startswith("RAY_")}
    defaults = {
        "OMP_NUM_THREADS": str(share),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONWARNINGS": "ignore",  # DeepSpeed's and torch's own deprecations
    }
    if not on_gpu:
        defaults["DS_ACCELERATOR"] = "cpu"
        if sys.platform == "linux":
            defaults["GLOO_SOCKET_IFNAME"] = "lo"
    decided = {"PYTHONUNBUFFERED": "1"}
    if config.launch.threads_per_rank:
        decided["OMP_NUM_THREADS"] = str(config.launch.threads_per_rank)
    return {**defaults, **environment, **decided}


def service_command(config_file: Path) -> list[str]:
    """The clustering service."""
    return [sys.executable, "-m", "cluster_jobs.recluster", "--config", str(config_file)]


def ray_command(config: RunConfig, announce: Path) -> list[str]:
    """The holder of a local Ray."""
    command = [
        sys.executable,
        "-m",
        "cluster_jobs.ray_cluster.local_ray",
        "--announce",
        str(announce),
    ]
    command += ["--cpus", str(config.launch.ray_cpus)]
    command += ["--gpus"] if config.launch.embed_gpus > 0 else []
    return [*command, "--dashboard"] if config.launch.ray_dashboard else command


def job_environment(ray: Mapping[str, str]) -> dict[str, str]:
    """The environment of a part that uses or holds Ray: this one, and how to reach it."""
    around = without_launcher(os.environ)
    return {**around, **ray, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
