"""The checks: each yields warnings, or raises what makes the run impossible.

What this machine lacks is an error where the run is to start; a dry run only warns of it, since its
configuration may be meant for another machine. What settings and data decide is an error in both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

from cluster_jobs import machine
from cluster_jobs.errors import JobError
from cluster_jobs.launch import command_lines
from cluster_jobs.launch.supervisor import Training
from cluster_jobs.preflight.networks import Networks, check_networks
from cluster_jobs.ray_cluster.address import check_ray_address, ray_address
from clustering.kmeans.faiss_installed import require_faiss
from clustering.kmeans.gpu_files import has_gpu_file
from clustering.settings import changed
from data_shards.cgroups import num_cores
from data_shards.disk import full_disk, size_text
from data_shards.errors import ClmleError
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.config.tasks import classes_of_tasks, evaluation_warning
from trainer.run.claim import check_claim
from trainer.run.deepspeed_version import check_deepspeed
from trainer.run.start import check_start

_PACKAGES = ("torch", "deepspeed", "ray", "webdataset", "tensorboard")
_GPU_BACKENDS = ("faiss-gpu", "torch-gpu")
_BYTES = 4  # of a weight, and of a value of an embedding
_SNAPSHOTS_KEPT = 4  # with the one that is being written
_EMBEDDINGS_KEPT = 2


@dataclass(frozen=True)
class Start:
    """What is about to start."""

    config: RunConfig
    """Of the run itself."""
    trainings: Sequence[Training]
    """It and its baselines, those that are not finished."""
    manifest: Manifest

    @cached_property
    def devices(self) -> list[str]:
        """Ids of the CUDA devices, on one of which each rank trains."""
        return machine.cuda_devices()

    @cached_property
    def fresh(self) -> list[Training]:
        """Those that start from their first step; all are checked against what they start from."""
        return [training for training in self.trainings if self._checkpoint(training) is None]

    def _checkpoint(self, training: Training) -> Path | None:
        num_ranks = command_lines.num_ranks(training.config, self.devices)
        return check_start(
            training.config, training.resume, manifest=self.manifest, num_ranks=num_ranks
        )

    @cached_property
    def networks(self) -> Networks:
        """What torch says of the networks of `fresh`."""
        return check_networks([training.config for training in self.fresh], self.manifest)

    @property
    def num_ranks(self) -> int:
        """Ranks of each training."""
        return command_lines.num_ranks(self.config, self.devices)

    @property
    def has_own_ray(self) -> bool:
        """Whether Ray is started on this machine."""
        return ray_address() is None

    @property
    def has_gpu(self) -> bool:
        """Whether Ray finds a GPU here; where there are none for the ranks by choice, it may."""
        return bool(self.devices) or (machine.is_cpu_wanted() and has_gpu_file())


Check = Callable[[Start], Iterator[str]]


def warnings_of(start: Start, *, dry_run: bool) -> Iterator[str]:
    """All warnings, one by one.

    Args:
        start: what is about to start.
        dry_run: whether it only is asked whether it could.

    Raises:
        ClmleError: the first thing that makes it impossible; what to change.
    """
    if not start.trainings:
        return
    for check in OF_MACHINE:
        try:
            yield from check(start)
        except ClmleError as error:
            if not dry_run:
                raise
            yield f"it would not start here: {error}"
    for check in OF_RUN:
        yield from check(start)


def _packages(start: Start) -> Iterator[str]:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise JobError(f"not installed: {', '.join(missing)}; pip install clmle, or make install")
    require_faiss()
    check_deepspeed()
    yield from ()


def _ray_there(start: Start) -> Iterator[str]:
    machine.check_names([os.getcwd()])
    check_ray_address()
    yield from ()


def _data(start: Start) -> Iterator[str]:
    start.manifest.split("train")
    for training in start.trainings:
        classes_of_tasks(training.config, start.manifest)
    if (warning := evaluation_warning(start.config, start.manifest)) is not None:
        yield warning


def _networks(start: Start) -> Iterator[str]:
    yield from start.networks.warnings


def _folders(start: Start) -> Iterator[str]:
    for training in start.trainings:
        check_claim(training.folder, training.config, fresh=training.resume == "none")
    yield from ()


def _port(start: Start) -> Iterator[str]:
    if start.config.launch.master_port:
        machine.check_port(start.config.launch.master_port)
    yield from ()


def _ranks(start: Start) -> Iterator[str]:
    launch, cores, ranks = start.config.launch, num_cores(), start.num_ranks
    if start.devices and ranks < launch.num_ranks:
        yield (
            f"launch.num_ranks={launch.num_ranks}, but there are {len(start.devices)} CUDA "
            f"devices: {ranks} ranks train; the batches are the same"
        )
    threads = ranks * max(1, launch.threads_per_rank)
    if threads > cores and not start.devices:
        yield (
            f"launch.num_ranks={launch.num_ranks} of {max(1, launch.threads_per_rank)} threads "
            f"share {cores} CPU cores and slow each other down; lower launch.num_ranks or "
            "launch.threads_per_rank"
        )


def _embedding(start: Start) -> Iterator[str]:
    launch, backbone = start.config.launch, start.config.model.backbone
    if start.has_own_ray and launch.embed_gpus and not start.has_gpu:
        yield machine.no_gpu_warning(launch.embed_gpus)
    if start.devices and not launch.embed_gpus and backbone != "tiny":
        yield (
            f"{backbone} embeds the training images for each table on CPUs, which may take longer "
            "than training; set launch.embed_gpus, such as 0.2"
        )


def _backends(start: Start) -> Iterator[str]:
    """A GPU that clustering asks for; what another Ray has is for its service to find out."""
    for training in start.trainings:
        backend = training.config.cluster.backend
        if start.has_own_ray and backend in _GPU_BACKENDS:
            _check_gpu_backend(start, backend)
    yield from ()


def _check_gpu_backend(start: Start, backend: str) -> None:
    if not start.has_gpu:
        raise JobError(
            f"cluster.backend={backend} needs a GPU, and this machine has none "
            f"({machine.why_on_cpu()}); set cluster.backend=auto"
        )
    if not start.config.launch.embed_gpus:
        raise JobError(
            f"cluster.backend={backend} needs a Ray with GPUs, which clmle run starts only with "
            "launch.embed_gpus above 0; set launch.embed_gpus, such as 0.2, or cluster.backend=auto"
        )
    if backend == "faiss-gpu" and packages_distributions().get("faiss") == ["faiss-cpu"]:
        raise JobError(
            "cluster.backend=faiss-gpu, but faiss-cpu is installed: pip uninstall faiss-cpu, then "
            "pip install faiss-gpu; or set cluster.backend=auto"
        )


def _ray(start: Start) -> Iterator[str]:
    launch, cores = start.config.launch, num_cores()
    if not start.has_own_ray:
        for name in changed(launch, "ray_cpus", "ray_dashboard"):
            yield f"launch.{name} is ignored: RAY_ADDRESS names a Ray that is running"
    elif launch.ray_cpus > cores:
        yield (
            f"launch.ray_cpus={launch.ray_cpus}, but there are {cores} CPU cores, which that many "
            "workers share; lower it, or set 0 for all cores"
        )


def _disk(start: Start) -> Iterator[str]:
    needed = sum(
        _bytes_written(training.config, start.manifest, count)
        for training, count in zip(start.fresh, start.networks.num_parameters, strict=True)
    )
    if room := full_disk(start.config.run_path, needed=needed):
        yield (
            f"run.folder={start.config.run.folder}: {room}, and checkpoints, snapshots and "
            f"embeddings take some {size_text(needed)}; set run.folder to a larger disk, or lower "
            "checkpoint.keep"
        )


def _bytes_written(config: RunConfig, manifest: Manifest, num_parameters: int) -> int:
    """Most bytes that a training run has on the disk at a time, roughly."""
    states = {"adamw": 2, "sgd": 1 if config.optim.momentum else 0}[config.optim.name]
    checkpoints = (1 + states) * (config.checkpoint.keep + 1)  # one is being written
    weights = num_parameters * (checkpoints + _SNAPSHOTS_KEPT)
    num_tasks = len(classes_of_tasks(config, manifest))
    rows = manifest.split("train").num_samples * num_tasks * _EMBEDDINGS_KEPT
    return _BYTES * (weights + rows * config.model.embedding_dim)


OF_MACHINE: tuple[Check, ...] = (_packages, _ray_there, _folders, _port, _backends)
OF_RUN: tuple[Check, ...] = (_data, _networks, _ranks, _embedding, _ray, _disk)
