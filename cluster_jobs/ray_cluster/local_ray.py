"""Ray for our jobs: the cluster that RAY_ADDRESS names, or one of our own on this machine.

Our own listens on the loopback interface alone, asks for a token of this run, sends no usage
statistics, and keeps its files in a private folder that is removed with it. `~/.ray` is never used.
`ray` is imported only after its environment is set: it reads it on import.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

from cluster_jobs import machine
from cluster_jobs.errors import JobError, PartFailed, run_job
from cluster_jobs.ray_cluster.address import ADDRESS, check_ray_address, ray_address
from cluster_jobs.ray_cluster.private_folder import RAY, private_folder
from data_shards.atomic import write_json
from data_shards.cgroups import memory_bytes, num_cores
from data_shards.disk import size_text, writing
from data_shards.errors import ClmleError
from data_shards.paths import path_option

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Otherwise a call after the end of a session would start a second cluster.
    "RAY_ENABLE_AUTO_CONNECT": "0",
}
# Decides, on every system, whether Ray binds to outside interfaces or to loopback.
_OUTSIDE_INTERFACES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_SHARED = (ADDRESS, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", _OUTSIDE_INTERFACES)

_LEAST_STORE_BYTES = 75 * 2**20  # Ray's own least
_MOST_STORE_BYTES = 16 * 2**30  # partitioned classes keep their rows in it
_VITAL = ("gcs_server", "raylet")
_CHECK_SECONDS = 1.0
_END_SECONDS = 3.0


@contextmanager
def ray_session(*, num_cpus: int = 0, dashboard: bool = False, gpus: bool = False) -> Iterator[int]:
    """Connect to Ray inside the block; an existing connection is used as it is.

    Args:
        num_cpus: size of a cluster of our own, 0 = all cores; ignored with RAY_ADDRESS.
        dashboard: whether our own has one, on the loopback interface.
        gpus: whether our own hands out the GPUs of this machine.

    Yields:
        CPUs of the whole cluster.

    Raises:
        JobError: the Ray of RAY_ADDRESS does not answer or refuses this process, or a name is no
            UTF-8.
        PartFailed: a Ray of our own does not start.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield _num_cpus()
        return
    machine.check_names([os.getcwd(), *sys.argv])
    if (address := ray_address()) is not None:
        check_ray_address()
        with _connected(_refused, address=address) as cpus:
            yield cpus
        return
    folder = private_folder()
    previous = {name: os.environ.get(name) for name in _SHARED}
    processes: list[psutil.Process] = []
    try:
        os.environ.update(_own_environment(folder))
        settings = _own_settings(folder, num_cpus, dashboard=dashboard, gpus=gpus)
        with _connected(partial(_not_started, folder), **settings) as cpus:
            try:
                yield cpus
            finally:
                processes = _processes_of(folder)
    finally:
        _restore(previous)
        _end(processes or _processes_of(folder))
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _connected(failure: Callable[[Exception], ClmleError], **settings: object) -> Iterator[int]:
    import ray

    in_main_thread = threading.current_thread() is threading.main_thread()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level="error", **settings)
    except Exception as error:  # Ray raises some as no more than that
        raise failure(error) from error
    if in_main_thread:
        signal.signal(signal.SIGTERM, on_sigterm)  # ray.init replaces it
    try:
        yield _num_cpus()
    finally:
        ray.shutdown()


def _refused(error: Exception) -> JobError:
    return JobError(
        f"{ADDRESS} is {ray_address()}; a Ray answers there, but cannot be used ({error}). Use the "
        f"same versions of Ray and Python, and the same token, or unset {ADDRESS}"
    )


def _not_started(folder: Path, error: Exception) -> PartFailed:
    free = {
        "of memory": min(psutil.virtual_memory().available, memory_bytes()),
        f"in {folder.parent}": shutil.disk_usage(folder.parent).free,
        "in /dev/shm": machine.free_shared_memory_bytes(),
    }
    found = ", ".join(f"{size_text(size)} {where}" for where, size in free.items())
    return PartFailed(
        f"Ray does not start ({error}). Free are {found}; if that is enough, look at the load of "
        "this machine and at `ulimit -a`"
    )


def _num_cpus() -> int:
    import ray

    return int(ray.cluster_resources().get("CPU", 1))


def _own_environment(folder: Path) -> dict[str, str]:
    environment = {_OUTSIDE_INTERFACES: "0"}
    if "RAY_AUTH_MODE" not in os.environ:
        token = folder / "token"
        with writing(token, "Ray's"):
            descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(secrets.token_hex(32))
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    return environment


def _own_settings(folder: Path, num_cpus: int, *, dashboard: bool, gpus: bool) -> dict[str, object]:
    return {
        "address": "local",
        "num_cpus": num_cpus or num_cores(),
        "num_gpus": None if gpus else 0,  # None: Ray looks; otherwise they are the trainer's alone
        "include_dashboard": dashboard,
        "dashboard_host": "127.0.0.1",
        "object_store_memory": object_store_bytes(),
        "_node_ip_address": "127.0.0.1",
        "_temp_dir": str(folder / RAY),  # Ray opens this one to everybody
    }


def object_store_bytes() -> int:
    """Size of the object store: no more than /dev/shm, or this process, can hold."""
    free = min(machine.free_shared_memory_bytes(), memory_bytes())
    return max(_LEAST_STORE_BYTES, min(_MOST_STORE_BYTES, int(0.3 * free)))


def _processes_of(folder: Path) -> list[psutil.Process]:
    """Ray's processes that outlive its workers, by the folder that they were started with."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(str(folder) in word for word in child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found


def _end(processes: Sequence[psutil.Process]) -> None:
    """Wait for Ray's last processes, which write files until they end."""
    _, alive = psutil.wait_procs(processes, timeout=_END_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_END_SECONDS)


def _restore(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def main(argv: Sequence[str] | None = None) -> int:
    """Run a Ray cluster until SIGTERM; a file tells other processes how to reach it."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster_jobs.ray_cluster.local_ray", description=__doc__
    )
    parser.add_argument("--announce", required=True, type=path_option, metavar="FILE")
    parser.add_argument("--cpus", type=int, default=0)
    parser.add_argument("--dashboard", action="store_true")
    parser.add_argument("--gpus", action="store_true")
    options = parser.parse_args(argv)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    with ray_session(num_cpus=options.cpus, dashboard=options.dashboard, gpus=options.gpus) as cpus:
        import ray

        context = ray.get_runtime_context()
        environment = {ADDRESS: context.gcs_address} | {
            name: os.environ[name] for name in (*_SHARED, *_QUIET) if name in os.environ
        }
        write_json(options.announce, environment)
        sys.stdout.write(f"Ray at {context.gcs_address}, {cpus} CPUs\n")
        sys.stdout.flush()
        _hold(stop)
    return 0


def _hold(stop: threading.Event) -> None:
    """Wait until the event, or until one of Ray's main processes ends."""
    children = {child.name(): child for child in psutil.Process().children()}
    while not stop.wait(_CHECK_SECONDS):
        for name in _VITAL:
            process = children[name]
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                raise PartFailed(
                    f"Ray's {name} ended; was it killed, or is there too little memory?"
                )


if __name__ == "__main__":
    sys.exit(run_job(main))
