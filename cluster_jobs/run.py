"""The whole system on this machine: a local Ray, the clustering service, DeepSpeed ranks, a report.

    clmle run --config digits
    clmle run --config digits --set train.steps=600 --set run.folder=runs/longer

Everything that it starts ends with it: at the end, on Ctrl-C, and when a part fails. The same
command again resumes from the newest checkpoint. With RAY_ADDRESS set, that cluster is used.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cluster_jobs import machine
from cluster_jobs.comparison import comparison_table
from cluster_jobs.errors import PartFailed, run_job
from cluster_jobs.launch.training_runs import train_all
from clustering.kmeans.faiss_installed import require_faiss
from data_shards.atomic import read_json, write_json
from data_shards.shards.manifest import Manifest
from trainer.config.baselines import baseline_config
from trainer.config.command_line import (
    add_resume_option,
    config_parser,
    print_if_dry_run,
    resolved,
)
from trainer.config.run_config import RunConfig
from trainer.config.tasks import load_manifest, resolve_tasks
from trainer.config.yaml_file import recipe_lines
from trainer.run.folder import RunFolder
from trainer.run.lock import LAUNCHER, claimed_alone
from trainer.run.start import check_start

_TERMINATED = 128 + signal.SIGTERM
_RESUMING = (
    "--resume auto (the default) resumes from the newest checkpoint, or starts over without one"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Train a run and its baselines, then compare them."""
    options = _parse(argv)
    config, derived = resolved(options)
    if print_if_dry_run(options, config, derived):
        return 0
    methods = _methods(config)
    _warn_of_settings(methods, config.baselines)
    manifest = _checked(config, options.resume)
    for line in recipe_lines(config, derived):
        sys.stdout.write(f"{line}\n")
    run = RunFolder(config.run_path)
    busy = (
        f"another `clmle run` is already running in {run.path}; wait for it, stop it, or set "
        "another run.folder"
    )
    with _sigterm_unwinds():
        try:
            with claimed_alone(
                run, LAUNCHER, lambda: _claim_all(methods, options.resume), busy=busy
            ):
                train_all(methods, manifest, options.resume)
        except PartFailed as error:
            raise PartFailed(f"{error}\n{_RESUMING}") from error
        except (KeyboardInterrupt, SystemExit):
            sys.stderr.write(f"{_RESUMING}\n")
            raise
    _report(run, methods, manifest)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = config_parser("clmle run", __doc__)
    add_resume_option(parser)
    return parser.parse_args(argv)


def _checked(config: RunConfig, resume: str) -> Manifest:
    """Check now what would otherwise fail minutes later; the shards."""
    require_faiss()
    machine.check_names([os.getcwd()])
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
    """Show the warnings about settings; for a baseline only about those that it sets itself."""
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
    previous = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(_TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(run_job(main))
