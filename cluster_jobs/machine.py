"""What this machine has: CUDA devices, shared memory, ports. Nothing is started."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from cluster_jobs.errors import JobError
from clustering.kmeans.gpu_files import has_gpu_file
from data_shards.streams import without_surrogates

_PROBE_SECONDS = 120


def cuda_devices() -> list[str]:
    """Ids of the CUDA devices that torch can use, as CUDA_VISIBLE_DEVICES has them; often none.

    torch is asked in a separate process, which takes seconds, and only where there is a driver.

    Raises:
        JobError: torch does not answer.
    """
    if is_cpu_wanted() or not has_gpu_file():
        return []
    command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise JobError(
            f"torch did not list the CUDA devices in {_PROBE_SECONDS} s; look at "
            "nvidia-smi, or set DS_ACCELERATOR=cpu to do without"
        ) from error
    count = int(answer.stdout) if answer.returncode == 0 else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return visible.split(",")[:count]


def why_on_cpu() -> str:
    """Why `cuda_devices` found none."""
    if is_cpu_wanted():
        return "DS_ACCELERATOR=cpu"
    if not has_gpu_file():
        return "no GPU's device file in /dev"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return "torch finds no CUDA device"
    return f"torch finds no CUDA device of CUDA_VISIBLE_DEVICES={visible}"


def is_cpu_wanted() -> bool:
    """Whether the ranks are to train on the CPU, whatever the machine has."""
    return os.environ.get("DS_ACCELERATOR") == "cpu"


def check_names(names: Iterable[str]) -> None:
    """Check names that Ray keeps, such as the working directory and the words of a command.

    Raises:
        JobError: Ray cannot take one, since it is not in UTF-8.
    """
    for name in names:
        if name != without_surrogates(name):
            raise JobError(
                f"Ray takes only names in UTF-8, got {name!r} as the working directory or in the "
                "command; work in another folder, put the name into the configuration file, or "
                "set LC_ALL=C.UTF-8"
            )


def no_gpu_warning(embed_gpus: float) -> str:
    """What is said of `launch.embed_gpus` where Ray has no GPU."""
    return f"launch.embed_gpus is {embed_gpus:g}, but Ray has no GPU here: embedding on CPUs"


def free_shared_memory_bytes() -> int:
    """Free space of /dev/shm; 0 where there is none."""
    folder = Path("/dev/shm")
    return shutil.disk_usage(folder).free if folder.is_dir() else 0


def free_port() -> int:
    """A free TCP port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_port(port: int) -> None:
    """Check that a TCP port is free.

    Raises:
        JobError: another process uses it, or this user may not.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise JobError(
                f"launch.master_port {port} cannot be used ({error.strerror}); "
                "set another one, or 0 for a free one"
            ) from error
