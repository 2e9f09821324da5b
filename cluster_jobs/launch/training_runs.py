"""The training runs of one command: the run itself, then its baselines."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from cluster_jobs import machine
from cluster_jobs.launch import command_lines
from cluster_jobs.launch.screen_warnings import ScreenWarnings
from cluster_jobs.launch.shared_ray import SharedRay
from cluster_jobs.launch.supervisor import Supervisor, Training, is_finished
from data_shards.atomic import remove_folder
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.run.claim import holds_other_run
from trainer.run.folder import SNAPSHOT_MANIFEST, RunFolder, checkpoint_steps, step_of
from trainer.run.start import find_checkpoint

_NO_PATHS = ("auto", "none")  # of --resume


def unfinished(methods: Mapping[str, RunConfig], resume: str) -> list[Training]:
    """The training runs that are not finished, in their order.

    Args:
        methods: name -> configuration: the run itself, then its baselines.
        resume: as `--resume` of the run itself.
    """
    first = next(iter(methods))
    # A path names a checkpoint of the run itself; baselines have their own.
    resumes = dict.fromkeys(methods, "none" if resume == "none" else "auto") | {first: resume}
    return [
        Training(name, config, resumes[name])
        for name, config in methods.items()
        if resumes[name] != "auto" or not _is_done(config)
    ]


def _is_done(config: RunConfig) -> bool:
    """Whether its folder holds this run, finished."""
    run = RunFolder(config.run_path)
    return is_finished(run) and not holds_other_run(run, config)


def train_all(
    config: RunConfig,
    trainings: Sequence[Training],
    manifest: Manifest,
    devices: Sequence[str],
    screen: ScreenWarnings,
) -> None:
    """Train one after another, on one Ray.

    Args:
        config: of the run itself.
        trainings: what is to be done.
        manifest: the shards of all of them.
        devices: ids of the CUDA devices; empty on a machine without.
        screen: where warnings are shown.

    Raises:
        PartFailed: a process failed; says which, with the end of its log.
        JobError: the machine cannot start them.
    """
    if not trainings:
        sys.stdout.write("this run is already finished\n")
        return
    _print_start(config, manifest, devices)
    with SharedRay(config, RunFolder(config.run_path).logs) as ray:
        for training in trainings:
            _drop_stale_requests(training.folder, training.resume)
            sys.stderr.write(f"{training.name}: {_beginning(training)}\n")
            Supervisor(training, ray, devices=devices, screen=screen).finish()


def _beginning(training: Training) -> str:
    checkpoint = find_checkpoint(training.resume, training.folder)
    if checkpoint is None:
        return "starting"
    step = step_of(checkpoint.name)
    where = checkpoint if step is None else f"step {step:,}"
    return f"resuming from {where} of {training.config.train.steps:,}"


def _print_start(config: RunConfig, manifest: Manifest, devices: Sequence[str]) -> None:
    images = ", ".join(f"{n:,} {name}" for name, n in _split_sizes(manifest).items())
    ranks = command_lines.num_ranks(config, devices)
    on_cpu = f"the CPU ({machine.why_on_cpu()})"
    where = f"GPU {', '.join(devices[:ranks])}" if devices else on_cpu
    sys.stdout.write(
        f"{config.run_path}: {images} images of {manifest.folder}, {ranks} ranks on {where}, "
        f"logs in {RunFolder(config.run_path).logs}\n"
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
