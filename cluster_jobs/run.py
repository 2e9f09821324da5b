"""The whole system on this machine: a local Ray, the clustering service, DeepSpeed ranks, a report.

    clmle run --config digits
    clmle run --config digits --set train.steps=600 --set run.folder=runs/longer

Everything that it starts ends with it: at the end, on Ctrl-C, and when a part fails. The same
command again resumes from the newest checkpoint. With RAY_ADDRESS set, that cluster is used. What
can be known is checked before anything starts; --dry-run only checks.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cluster_jobs.comparison import comparison_table
from cluster_jobs.errors import PartFailed, run_job
from cluster_jobs.launch.screen_warnings import ScreenWarnings
from cluster_jobs.launch.training_runs import train_all, unfinished
from cluster_jobs.preflight.checks import Start, warnings_of
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
from trainer.config.tasks import load_manifest
from trainer.config.yaml_file import recipe_lines
from trainer.run.claim import claim_folder
from trainer.run.folder import RunFolder
from trainer.run.lock import LAUNCHER, claimed_alone

_TERMINATED = 128 + signal.SIGTERM
_RESUMING = (
    "the same command again, with --resume auto (the default), resumes from the newest checkpoint, "
    "or starts over if there is none"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Train a run and its baselines, then compare them."""
    options = _parse(argv)
    config, derived = resolved(options)
    is_dry = print_if_dry_run(options, config, derived)
    methods, screen = _methods(config), ScreenWarnings()
    start = _checked(methods, options.resume, screen, dry_run=is_dry)
    if is_dry:
        return 0
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
                train_all(start.config, start.trainings, start.manifest, start.devices, screen)
        except PartFailed as error:
            raise PartFailed(f"{error}\n{_RESUMING}") from error
        except (KeyboardInterrupt, SystemExit):
            sys.stderr.write(f"{_RESUMING}\n")
            raise
    _report(run, methods, start.manifest)
    screen.repeat()
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = config_parser("clmle run", __doc__)
    add_resume_option(parser)
    return parser.parse_args(argv)


def _checked(
    methods: Mapping[str, RunConfig], resume: str, screen: ScreenWarnings, *, dry_run: bool
) -> Start:
    """Check now what would otherwise fail, or not be as it was wished, minutes later."""
    config = next(iter(methods.values()))
    for warning in _settings_warnings(methods, config.baselines):
        screen.show(warning)
    start = Start(config, unfinished(methods, resume), load_manifest(config))
    for warning in warnings_of(start, dry_run=dry_run):
        screen.show(warning)
    return start


def _settings_warnings(
    methods: Mapping[str, RunConfig], baselines: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """The warnings about settings; for a baseline only about those that it sets itself."""
    for name, config in methods.items():
        for warning in config.warnings():
            if name not in baselines:
                yield warning
            elif warning.split()[0] in baselines[name]:
                yield f"baseline {name}: {warning}"


def _methods(config: RunConfig) -> dict[str, RunConfig]:
    """The run itself, by the name of its loss, then its baselines."""
    name = config.loss.name if config.loss.name not in config.baselines else "this run"
    baselines = {other: baseline_config(config, other) for other in config.baselines}
    return {name: config, **baselines}


def _claim_all(methods: Mapping[str, RunConfig], resume: str) -> None:
    for config in methods.values():
        run = RunFolder(config.run_path)
        claim_folder(run, config, fresh=resume == "none", holding=LAUNCHER)


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
