"""Compare the methods: balanced accuracy of each on several data sets, with several seeds.

    python -m benchmarks.accuracy --suite smoke --out runs/accuracy/smoke.json
    python -m benchmarks.accuracy --suite quick --data DIR --out runs/accuracy/quick.json
    python -m benchmarks.accuracy --suite full --data DIR --out runs/accuracy/full.json --search
    python -m benchmarks.accuracy --suite full --data DIR --out runs/accuracy/full.json

DIR holds fashion_mnist/, mnist/ (idx files), lfw.tar.xz and utkface.tar.xz. --search tries a few
settings of each method on validation images, on one data set of each family, then the read-outs
with the best settings on the others; what it chose goes to benchmarks/recipes.json. A comparison
uses that and reads the test images once per training run. With --split validation it reads the
validation images instead, and trains without them: for choices that no test image should decide.

Every training run is the trainer that users run (one rank), with the same number of images for all
methods of a data set. Finished runs are lines of --records: the same command continues where it
was stopped, and a longer suite reuses the runs of a shorter one. Name another file after
changing the trainer's code: a record knows its settings and images, not the code.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}.items():
    os.environ.setdefault(_name, _value)

from benchmarks.accuracy.options import read_plan  # noqa: E402 - the environment comes first
from benchmarks.accuracy.report.files import write_files  # noqa: E402
from benchmarks.accuracy.report.results import peers, summarise  # noqa: E402
from benchmarks.accuracy.report.terminal import terminal_text  # noqa: E402
from benchmarks.accuracy.run.comparison import Comparison  # noqa: E402
from benchmarks.accuracy.run.plan import Plan  # noqa: E402
from benchmarks.accuracy.run.search import search  # noqa: E402
from data_shards.errors import INTERRUPTED, DataError, exit_code_and_message  # noqa: E402
from data_shards.folder_lock import FolderLock  # noqa: E402
from data_shards.streams import write_any_name  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    write_any_name()
    plan = read_plan(list(sys.argv[1:] if argv is None else argv), __doc__)
    busy = DataError(
        f"another benchmark is running in {plan.folder}; wait for it, or name a file in another "
        "folder by --out"
    )

    def clear() -> None:
        if not plan.dry_run:  # what training runs that failed or were killed have left
            shutil.rmtree(plan.work, ignore_errors=True)

    try:
        with FolderLock(plan.folder / ".lock").claimed(clear, busy=busy):
            return search(plan) if plan.search else compare(plan)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - raised again if a bug
        code, message = exit_code_and_message(error)
        then = "; the same command resumes with what is left" if code == INTERRUPTED else ""
        sys.stderr.write(f"benchmarks.accuracy: {message}{then}\n")
        return code


def compare(plan: Plan) -> int:
    """Train what has no record yet; print and write the results of all.

    Returns:
        0, or 1 when a training run failed.
    """
    comparison = Comparison.of(plan)
    first = comparison.first_jobs()
    comparison.print_costs(first)
    if plan.dry_run:
        return 0
    jobs, failures = comparison.train(first)
    results = summarise(comparison, jobs)
    sys.stdout.write(terminal_text(results, tested=len(peers(plan.methods)) > 1))
    print("\n".join(map(str, write_files(results, plan.out))))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
