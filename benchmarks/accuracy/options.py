"""The command line of the benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import get_args

from benchmarks.accuracy.run import recipes
from benchmarks.accuracy.run.datasets import DATASETS
from benchmarks.accuracy.run.jobs import Split
from benchmarks.accuracy.run.methods import METHODS
from benchmarks.accuracy.run.plan import Plan
from benchmarks.accuracy.run.suites import SUITES
from data_shards.cgroups import num_cores
from data_shards.paths import path_option

COMMAND = "python -m benchmarks.accuracy"


def read_plan(arguments: Sequence[str], description: str) -> Plan:
    """What was asked for; exits with code 2 when the arguments are wrong.

    Args:
        arguments: of the command line.
        description: for `--help`.
    """
    options = _parser(description).parse_args(arguments)
    suite = SUITES[options.suite]
    return Plan(
        datasets=tuple(dict.fromkeys(options.datasets or suite.datasets)),
        methods=tuple(dict.fromkeys(options.methods or suite.methods)),
        num_seeds=options.seeds or suite.num_seeds,
        top_seeds=options.seeds or max(suite.num_seeds, suite.top_seeds),
        data=options.data,
        out=options.out,
        records=options.records or options.out.absolute().parent / "trainings.jsonl",
        recipes=options.recipes,
        split=options.split or "test",
        search=options.search,
        at_once=options.jobs,
        dry_run=options.dry_run,
        command=" ".join([COMMAND, *arguments]),
    )


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--suite", choices=sorted(SUITES), default="quick", help="(default quick)")
    add("--data", type=path_option, metavar="DIR", help="folder with the sources' files")
    add("--out", type=path_option, required=True, metavar="FILE", help="JSON file to write")
    add("--datasets", nargs="+", choices=sorted(DATASETS), metavar="NAME", help=", ".join(DATASETS))
    add("--methods", nargs="+", choices=sorted(METHODS), metavar="NAME", help=", ".join(METHODS))
    add("--seeds", type=_positive, metavar="N", help="of every method (default: the suite's)")
    add(
        "--jobs",
        type=_positive,
        metavar="N",
        default=num_cores(),
        help="training runs at a time, one thread each (default: all cores)",
    )
    images = parser.add_mutually_exclusive_group()
    images.add_argument(
        "--search", action="store_true", help="choose settings and read-outs; no test images"
    )
    images.add_argument(
        "--split", choices=get_args(Split), help="images of the comparison (default test)"
    )
    add(
        "--records",
        type=path_option,
        metavar="FILE",
        help="finished training runs, read and added (default trainings.jsonl beside --out)",
    )
    add(
        "--recipes",
        type=path_option,
        default=recipes.DEFAULT_PATH,
        metavar="FILE",
        help="file of chosen settings",
    )
    add(
        "--dry-run",
        action="store_true",
        help="import the images, print the time needed, stop",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {number}")
    return number
