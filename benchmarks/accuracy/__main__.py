"""Compare the methods: balanced accuracy of each on several data sets, with several seeds.

    python -m benchmarks.accuracy --suite smoke --out runs/accuracy/smoke.json
    python -m benchmarks.accuracy --suite quick --data DIR --out runs/accuracy/quick.json
    python -m benchmarks.accuracy --suite full --data DIR --out runs/accuracy/full.json --search
    python -m benchmarks.accuracy --suite full --data DIR --out runs/accuracy/full.json

DIR holds fashion_mnist/, mnist/ (idx files), lfw.tar.xz and utkface.tar.xz. --search tries a few
settings of each method on validation images, on one data set of each family, then the read-outs
with the best settings on the others; what it chose goes to benchmarks/recipes.json. A comparison
uses that and reads the test images once a training. With --split validation it reads the validation
images instead, and trains without them: for choices that no test image should decide.

Every training is the trainer that users run (one rank), with the same number of images for all
methods of a data set. Finished trainings are lines of --records: the same command goes on where it
was stopped, and a longer suite takes up what a shorter one has done. Name another file after
changing the trainer's code: a record knows its settings and images, not the code.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}.items():
    os.environ.setdefault(_name, _value)

from benchmarks.accuracy.report.comparison import compare  # noqa: E402
from benchmarks.accuracy.run import recipes  # noqa: E402 - the environment comes first
from benchmarks.accuracy.run.datasets import DATASETS  # noqa: E402
from benchmarks.accuracy.run.jobs import Split  # noqa: E402
from benchmarks.accuracy.run.methods import METHODS  # noqa: E402
from benchmarks.accuracy.run.search import search  # noqa: E402
from benchmarks.accuracy.run.suites import SUITES  # noqa: E402
from benchmarks.accuracy.run.trainings import Plan  # noqa: E402
from data_shards.errors import INTERRUPTED, DataError, exit_code_and_message  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(arguments)
    suite = SUITES[options.suite]
    plan = Plan(
        datasets=tuple(dict.fromkeys(options.datasets or suite.datasets)),
        methods=tuple(dict.fromkeys(options.methods or suite.methods)),
        num_seeds=options.seeds or suite.num_seeds,
        top_seeds=options.seeds or max(suite.num_seeds, suite.top_seeds),
        data=options.data,
        out=options.out,
        records=options.records or options.out.absolute().parent / "trainings.jsonl",
        recipes=options.recipes,
        split=options.split or "test",
        at_once=options.jobs,
        dry_run=options.dry_run,
        command=" ".join(["python -m benchmarks.accuracy", *arguments]),
    )
    try:
        with _alone(plan.folder):
            if not plan.dry_run:  # of trainings that failed before, or were killed
                shutil.rmtree(plan.work, ignore_errors=True)
            return search(plan) if options.search else compare(plan)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - raised again if a bug
        code, message = exit_code_and_message(error)
        then = "; the same command resumes with what is left" if code == INTERRUPTED else ""
        sys.stderr.write(f"benchmarks.accuracy: {message}{then}\n")
        return code


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second benchmark out of the folder, whose work the first would remove."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"another benchmark is at work in {folder}; wait for it, or name a file in another "
                "folder by --out"
            ) from error
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--suite", choices=sorted(SUITES), default="quick", help="(default quick)")
    add("--data", type=Path, metavar="DIR", help="folder with the sources' files")
    add("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")
    add("--datasets", nargs="+", choices=sorted(DATASETS), metavar="NAME", help=", ".join(DATASETS))
    add("--methods", nargs="+", choices=sorted(METHODS), metavar="NAME", help=", ".join(METHODS))
    add("--seeds", type=_positive, metavar="N", help="of every method (default: the suite's)")
    add(
        "--jobs",
        type=_positive,
        metavar="N",
        default=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        help="trainings at a time, a thread each (default: the machine's cores)",
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
        type=Path,
        metavar="FILE",
        help="finished trainings, found and added (default trainings.jsonl beside --out)",
    )
    add(
        "--recipes", type=Path, default=recipes.DEFAULT_PATH, metavar="FILE", help="what was chosen"
    )
    add("--dry-run", action="store_true", help="import the images, say what it will cost, stop")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be >= 1, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
