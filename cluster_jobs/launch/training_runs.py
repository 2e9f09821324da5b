"""The training runs of one command: the run itself, then its baselines."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from cluster_jobs import machine
from cluster_jobs.launch import command_lines
from cluster_jobs.launch.shared_ray import SharedRay
from cluster_jobs.launch.supervisor import Supervisor, is_finished
from data_shards.atomic import remove_folder
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.run.folder import SNAPSHOT_MANIFEST, RunFolder, checkpoint_steps, step_of

_NO_PATHS = ("auto", "none")  # of --resume


def train_all(methods: Mapping[str, RunConfig], manifest: Manifest, resume: str) -> None:
    """Train every method that is not finished, one after another, on one Ray.

    Args:
        methods: name -> configuration: the run itself, then its baselines.
        manifest: the shards of all of them.
        resume: as `--resume` of the run itself.

    Raises:
        PartFailed: a process failed; says which, with the end of its log.
        JobError: the machine cannot start them.
    """
    first, *baselines = methods
    # A path names a checkpoint of the run itself; baselines have their own.
    resumes = {first: resume} | dict.fromkeys(baselines, "none" if resume == "none" else "auto")
    unfinished = [
        name
        for name, config in methods.items()
        if resumes[name] != "auto" or not is_finished(RunFolder(config.run_path))
    ]
    if not unfinished:
        sys.stdout.write("this run is already finished\n")
        return
    devices = machine.cuda_devices()
    _print_start(methods[first], manifest, devices)
    with SharedRay(methods[first], RunFolder(methods[first].run_path).logs) as ray:
        for name in unfinished:
            run, start = RunFolder(methods[name].run_path), resumes[name]
            _drop_stale_requests(run, start)
            sys.stderr.write(f"{name}: starting\n")
            Supervisor(methods[name], ray, label=name, resume=start, devices=devices).finish()


def _print_start(config: RunConfig, manifest: Manifest, devices: Sequence[str]) -> None:
    images = ", ".join(f"{n:,} {name}" for name, n in _split_sizes(manifest).items())
    ranks = command_lines.num_ranks(config, devices)
    on_cpu = f"the CPU ({machine.why_on_cpu()})"
    where = f"GPU {', '.join(devices[:ranks])}" if devices else on_cpu
    sys.stdout.write(
        f"{config.run_path}: {images} images of {manifest.folder}, {ranks} ranks on {where}, "
        f"logs in {RunFolder(config.run_path).logs}\n"
    )
    if devices and ranks < config.launch.num_ranks:
        sys.stderr.write(
            f"warning: {ranks} ranks instead of {config.launch.num_ranks}: there are "
            f"{len(devices)} CUDA devices; the batches are the same\n"
        )
    if devices and config.launch.embed_gpus == 0 and config.model.backbone != "tiny":
        sys.stderr.write(
            f"warning: {config.model.backbone} embeds the training images for each table on CPUs, "
            "which may take longer than training; set launch.embed_gpus, such as 0.2\n"
        )
    sys.stdout.flush()


def _split_sizes(manifest: Manifest) -> dict[str, int]:
    return {name: split.num_samples for name, split in manifest.splits.items()}


def _drop_stale_requests(run: RunFolder, resume: str) -> None:
    """Remove snapshots of an attempt that got further than its newest checkpoint."""
    if resume not in _NO_PATHS:
        return  # what lies beyond an older checkpoint may still be wanted
    saved = max(checkpoint_steps(run), default=0)
    for folder in run.snapshots.glob("step_*"):
        if (step_of(folder.name) or 0) > saved:
            remove_folder(folder, SNAPSHOT_MANIFEST)
