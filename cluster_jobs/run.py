"""The whole system on this machine: a local Ray, the clustering service, DeepSpeed ranks, a report.

    clmle run --config configs/digits.yaml
    clmle run --config configs/digits.yaml --set train.steps=600 --set run.folder=runs/longer

Everything that it starts ends with it: at the end, on Ctrl-C, and when a part fails. The same
command again goes on from the newest checkpoint. With RAY_ADDRESS set, that cluster is used.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cluster_jobs import machine
from cluster_jobs.comparison import comparison_table
from cluster_jobs.errors import PartFailed, run_job
from cluster_jobs.launch import command as launch
from cluster_jobs.launch.ray_part import RayPart
from cluster_jobs.launch.supervisor import Supervisor, is_finished
from clustering.kmeans.faiss_installed import require_faiss
from data_shards.atomic import read_json, write_json
from data_shards.shards.manifest import Manifest
from trainer.config.baselines import baseline_config
from trainer.config.run_config import RunConfig
from trainer.config.tasks import load_manifest, resolve_tasks
from trainer.config.yaml_file import (
    add_resume_option,
    config_parser,
    recipe_lines,
    resolved,
)
from trainer.run.folder import RunFolder, checkpoint_steps, step_of
from trainer.run.lock import LAUNCHER, claimed_alone
from trainer.run.start import check_start

_TERMINATED = 128 + signal.SIGTERM
_NO_PATHS = ("auto", "none")  # of --resume
_GO_ON = (
    "--resume auto (the default) goes on from the newest checkpoint, or from the start without one"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Train a run and its baselines, then compare them."""
    options = _parse(argv)
    found = resolved(options)
    if found is None:
        return 0
    config, derived = found
    methods = _methods(config)
    _warn_of_settings(methods, config.baselines)
    manifest = _checked(config, options.resume)
    for line in recipe_lines(config, derived):
        sys.stdout.write(f"{line}\n")
    run = RunFolder(config.run_path)
    busy = (
        f"another `clmle run` is at work in {run.path}; wait for it, stop it, or set another "
        "run.folder"
    )
    with _sigterm_unwinds():
        try:
            with claimed_alone(
                run, LAUNCHER, lambda: _claim_all(methods, options.resume), busy=busy
            ):
                _train_all(methods, manifest, options.resume)
        except PartFailed as error:
            raise PartFailed(f"{error}\n{_GO_ON}") from error
        except (KeyboardInterrupt, SystemExit):
            sys.stderr.write(f"{_GO_ON}\n")
            raise
    _report(run, methods, manifest)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = config_parser("clmle run", __doc__)
    add_resume_option(parser)
    return parser.parse_args(argv)


def _checked(config: RunConfig, resume: str) -> Manifest:
    """Find now what would otherwise fail minutes later."""
    require_faiss()
    manifest = load_manifest(config)
    manifest.split("train")
    resolve_tasks(config, manifest)
    if config.launch.master_port:
        machine.check_port(config.launch.master_port)
    check_start(config, resume)
    return manifest


def _warn_of_settings(
    methods: Mapping[str, RunConfig], baselines: Mapping[str, Mapping[str, Any]]
) -> None:
    """Warn of settings at issue; of a baseline's, only of those that it names itself."""
    for name, config in methods.items():
        for warning in config.warnings():
            if name not in baselines:
                sys.stderr.write(f"warning: {warning}\n")
            elif warning.split()[0] in baselines[name]:
                sys.stderr.write(f"warning: baseline {name}: {warning}\n")


def _methods(config: RunConfig) -> dict[str, RunConfig]:
    """The run itself, by the name of its loss, then its baselines."""
    name = config.loss.name if config.loss.name not in config.baselines else "this run"
    baselines = {other: baseline_config(config, other) for other in config.baselines}
    return {name: config, **baselines}


def _claim_all(methods: Mapping[str, RunConfig], resume: str) -> None:
    for config in methods.values():
        RunFolder(config.run_path).claim(config, fresh=resume == "none")


def _train_all(methods: Mapping[str, RunConfig], manifest: Manifest, resume: str) -> None:
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
    _say_what_starts(methods[first], manifest, devices)
    with RayPart(methods[first], RunFolder(methods[first].run_path).logs) as ray:
        for name in unfinished:
            run, start = RunFolder(methods[name].run_path), resumes[name]
            _drop_stale_requests(run, start)
            sys.stderr.write(f"{name}: starting\n")
            Supervisor(methods[name], ray, label=name, resume=start, devices=devices).finish()


def _say_what_starts(config: RunConfig, manifest: Manifest, devices: Sequence[str]) -> None:
    images = ", ".join(f"{n:,} {name}" for name, n in _split_sizes(manifest).items())
    ranks = launch.num_ranks(config, devices)
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
            "which may take longer than the training; set launch.embed_gpus, such as 0.2\n"
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
            shutil.rmtree(folder)


def _report(run: RunFolder, methods: Mapping[str, RunConfig], manifest: Manifest) -> None:
    """Put the baselines into the run's report, and print the comparison."""
    reports: dict[str, Any] = {
        name: read_json(RunFolder(config.run_path).report) for name, config in methods.items()
    }
    name, *others = methods
    reports[name]["baselines"] = {other: reports[other] for other in others}
    write_json(run.report, reports[name])
    sys.stdout.write("\n" + comparison_table(reports, manifest, methods[name]))
    sys.stdout.write(f"\nreport: {run.report}\ntensorboard --logdir {run.tensorboard}\n")


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Inside the block, SIGTERM raises SystemExit, so that everything started is ended."""
    former = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(_TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


if __name__ == "__main__":
    sys.exit(run_job(main))
