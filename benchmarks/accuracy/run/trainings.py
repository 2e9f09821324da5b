"""What was asked for, and the doing of its trainings: those with a record are done."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.run.costs import CostEstimate, in_words
from benchmarks.accuracy.run.datasets import import_data
from benchmarks.accuracy.run.jobs import SEARCH_SEED, Job, Record, Split
from benchmarks.accuracy.run.pool import run_jobs
from benchmarks.accuracy.run.records import Records
from data_shards.shards.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for on the command line."""

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    num_seeds: int
    """Of every method."""
    top_seeds: int
    """Of the best methods of each data set, `num_seeds` or more."""
    data: Path | None
    out: Path
    records: Path
    """The file of finished trainings."""
    recipes: Path
    split: Split
    """On whose images a comparison measures; a search always takes validation."""
    at_once: int
    dry_run: bool
    command: str

    @property
    def folder(self) -> Path:
        """Shards and what is under way lie beside the results."""
        return self.out.absolute().parent

    @property
    def work(self) -> Path:
        """What is under way, and logs of what failed."""
        return self.folder / "work"

    def import_data(self, datasets: Iterable[str], *, validation: bool) -> dict[str, Manifest]:
        """Import data sets, or find them imported.

        Args:
            datasets: their names.
            validation: hold validation images back from the training images.

        Raises:
            DataError: the files are not there or not what the source needs.
        """
        out = self.folder / "data"
        return {d: import_data(d, self.data, out, validation=validation) for d in datasets}


def say_costs(plan: Plan, records: Records, jobs: Sequence[Job], *, what: str = "") -> None:
    """Print how many of the jobs are done, and what the others will cost."""
    todo = records.missing(jobs)
    wall = CostEstimate(records.all()).wall_seconds(todo, plan.at_once)
    print(
        f"{what}{len(jobs)} trainings, {len(jobs) - len(todo)} of them done before; the rest will "
        f"take about {in_words(wall)}, {plan.at_once} at a time",
        flush=True,
    )


def do_jobs(plan: Plan, records: Records, jobs: Sequence[Job]) -> list[str]:
    """Do the jobs that have no record; returns what went wrong."""
    todo = records.missing(jobs)
    if not todo:
        return []
    plan.work.mkdir(parents=True, exist_ok=True)
    failures = []
    left = {job.name: job for job in todo}
    costs = CostEstimate(records.all())
    for job, result in run_jobs(todo, work=plan.work, at_once=plan.at_once):
        del left[job.name]
        if isinstance(result, Record):
            records.add(job, result)
            costs.tell(result)
            outcome = _outcome(result)
        else:
            failures.append(f"{job}: {result}")
            outcome = f"failed, {result}"
        wall = costs.wall_seconds(list(left.values()), plan.at_once)
        place = f"[{len(todo) - len(left)}/{len(todo)}]"
        print(f"{place} {job}: {outcome}; about {in_words(wall)} left", flush=True)
    for failure in failures:
        sys.stderr.write(f"failed: {failure}\n")
    with suppress(OSError):
        plan.work.rmdir()  # unless logs of failures lie there
    return failures


def _outcome(record: Record) -> str:
    values = record.balanced_accuracy
    if not values:
        return f"the loss became infinite, {record.seconds:.0f} s"
    if record.seed != SEARCH_SEED:  # the read-out was chosen before, and nothing is chosen here
        return f"{record.seconds:.0f} s"
    best = max(values, key=lambda readout: values[readout])
    return f"{best} {values[best]:.4f}, {record.seconds:.0f} s"
