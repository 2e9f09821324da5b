"""What is installed, what works on this machine, and how to fix the rest.

    clmle doctor
    clmle doctor --json

Starts a small Ray on the loopback interface and ends it again. Exit code 1 if something that is
needed does not work.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from cluster_jobs import machine
from cluster_jobs.errors import run_job
from cluster_jobs.ray_cluster.address import ray_address
from cluster_jobs.ray_cluster.local_ray import ray_session
from data_shards.cgroups import memory_bytes, num_cores
from data_shards.disk import size_text
from data_shards.errors import ClmleError, ConfigError
from data_shards.options import OptionParser
from trainer.run.deepspeed_version import check_deepspeed

# Not read from the package's metadata: a checkout that is not installed has none.
_NEEDED = (
    "deepspeed",
    "ray",
    "webdataset",
    "tensorboard",
    "safetensors",
    "numpy",
    "pillow",
    "pyyaml",
    "tqdm",
    "psutil",
    "scikit-learn",
    "scipy",
    "setuptools",
    "pytorch-metric-learning",
)
_LEAST_PYTHON = (3, 11)
_LEAST_SHARED_MEMORY = 256 * 2**20
_LEAST_DISK = 2 * 2**30
_LEAST_MEMORY_PER_CORE = 2**30
_CALL_SECONDS = 60


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    state: Literal["ok", "warn", "fail"]
    name: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.state:4}  {self.name}: {self.found}{remedy}"


def findings() -> Iterator[Finding]:
    """Check everything, the slow things last."""
    yield _python()
    yield from map(_package, _NEEDED)
    yield from (_faiss(), _compiler(), _launcher(), _port(), _shared_memory(), _memory())
    yield from (_folder("temporary files", Path(tempfile.gettempdir())), _folder("runs", Path()))
    yield from (_torch(), _devices(), _ray())


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= _LEAST_PYTHON:
        return Finding("ok", "python", found)
    return Finding("fail", "python", found, "install Python 3.11 or newer")


def _package(name: str) -> Finding:
    installed = _version(name)
    if installed is not None:
        return Finding("ok", name, installed)
    return Finding("fail", name, "not installed", f"pip install {name}, or make install")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _faiss() -> Finding:
    cpu, gpu = _version("faiss-cpu"), _version("faiss-gpu")
    if cpu and gpu:
        remedy = "they overwrite each other: pip uninstall both, then install one"
        return Finding("fail", "faiss", f"faiss-cpu {cpu} and faiss-gpu {gpu}", remedy)
    if not (cpu or gpu):
        remedy = "pip install faiss-cpu, or faiss-gpu (CUDA 12)"
        return Finding("fail", "faiss", "not installed", remedy)
    name = f"faiss-cpu {cpu}" if cpu else f"faiss-gpu {gpu}"
    return _loaded("faiss", name)


def _torch() -> Finding:
    installed = _package("torch")
    return _loaded("torch", installed.found) if installed.state == "ok" else installed


def _loaded(module: str, found: str) -> Finding:
    """Whether a compiled package can be loaded; it may be installed and still fail."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        return Finding("fail", module, f"{found}, but not loaded ({error})", "install it again")
    return Finding("ok", module, found)


def _compiler() -> Finding:
    tools = {name: shutil.which(name) for name in ("c++", "ninja")}
    missing = [name for name, path in tools.items() if path is None]
    if not missing:
        return Finding("ok", "compiler", "c++ and ninja")
    remedy = "needed only if train.deepspeed_extra asks for an op that DeepSpeed must build"
    return Finding("warn", "compiler", f"no {' and no '.join(missing)}", remedy)


def _launcher() -> Finding:
    spec = find_spec("deepspeed")
    if spec is None or spec.origin is None:
        return Finding("fail", "DeepSpeed launcher", "not installed", "pip install deepspeed")
    if not (Path(spec.origin).parent / "launcher" / "launch.py").exists():
        remedy = "install the version that constraints.txt names"
        return Finding("fail", "DeepSpeed launcher", "this version has none", remedy)
    try:
        check_deepspeed()
    except ConfigError as error:
        return Finding("fail", "DeepSpeed launcher", str(error))
    return Finding("ok", "DeepSpeed launcher", "found")


def _port() -> Finding:
    try:
        return Finding("ok", "TCP port", f"{machine.free_port()} is free")
    except OSError as error:
        remedy = "processes must be allowed to listen on 127.0.0.1"
        return Finding("fail", "TCP port", f"none ({error.strerror})", remedy)


def _shared_memory() -> Finding:
    free = machine.free_shared_memory_bytes()
    found = f"{size_text(free)} free in /dev/shm"
    if free >= _LEAST_SHARED_MEMORY:
        return Finding("ok", "shared memory", found)
    remedy = "Ray then uses slower files; in Docker, start with --shm-size=1g"
    return Finding("warn", "shared memory", found, remedy)


def _memory() -> Finding:
    cores, memory = num_cores(), memory_bytes()
    found = f"{size_text(memory)} for {cores} cores"
    if memory >= cores * _LEAST_MEMORY_PER_CORE:
        return Finding("ok", "memory", found)
    remedy = "Ray starts a worker of up to 1 GiB for each core; set launch.ray_cpus to fewer"
    return Finding("warn", "memory", found, remedy)


def _folder(name: str, folder: Path) -> Finding:
    folder = folder.absolute()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".tmp-"):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        remedy = "set TMPDIR" if name == "temporary files" else "set run.folder to another place"
        return Finding("fail", name, f"cannot write to {folder} ({error.strerror})", remedy)
    found = f"{folder} is writable, {size_text(free)} free"
    if free >= _LEAST_DISK:
        return Finding("ok", name, found)
    return Finding("warn", name, found, "snapshots and embeddings may need more")


def _devices() -> Finding:
    cores, all_cores = num_cores(), os.cpu_count()
    of_cores = f"{cores} cores" if cores == all_cores else f"{cores} of {all_cores} cores"
    devices = machine.cuda_devices()
    if devices:
        return Finding("ok", "devices", f"{of_cores}, {len(devices)} CUDA devices")
    found = f"{of_cores}; ranks run on the CPU ({machine.why_on_cpu()})"
    return Finding("ok", "devices", found)


def _ray() -> Finding:
    address = ray_address()
    where = f"the cluster of RAY_ADDRESS {address}" if address else "a local cluster"
    try:
        with ray_session(num_cpus=1) as cpus:
            import ray

            ray.get(ray.remote(lambda: None).remote(), timeout=_CALL_SECONDS)
    except ClmleError as error:
        return Finding("fail", "Ray", str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        remedy = "look at memory and load"
        return Finding("fail", "Ray", f"{where} does not work ({error})", remedy)
    return Finding("ok", "Ray", f"{where} ran a call; CPUs: {cpus}")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings; returns 1 if something that is needed does not work."""
    parser = OptionParser(
        prog="clmle doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print a list of findings as JSON")
    options = parser.parse_args(argv)
    found = []
    for finding in findings():
        found.append(finding)
        if not options.json:
            sys.stdout.write(f"{finding}\n")
            sys.stdout.flush()
    if options.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in found], indent=1) + "\n")
    failed = [finding.name for finding in found if finding.state == "fail"]
    if failed:
        sys.stderr.write(f"not ready: {', '.join(failed)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_job(main))
