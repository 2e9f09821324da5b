"""What was asked for, and the doing of its trainings: those with a record are done."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.costs import CostEstimate, in_words
from benchmarks.accuracy.jobs import SEARCH_SEED, Job, Record, Split, all_records, find_record
from benchmarks.accuracy.pool import run_jobs


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
    recipes: Path
    split: Split
    """On whose images a comparison measures; a search always takes validation."""
    at_once: int
    dry_run: bool
    command: str

    @property
    def folder(self) -> Path:
        """Shards, records and what is under way lie beside the results."""
        return self.out.absolute().parent

    @property
    def records(self) -> Path:
        """Of finished trainings."""
        return self.folder / "trainings"


def say_costs(plan: Plan, jobs: Sequence[Job], *, what: str = "") -> None:
    """Print how many of the jobs are done, and what the others will cost."""
    todo = _still_to_do(plan, jobs)
    wall = CostEstimate(all_records(plan.records)).wall_seconds(todo, plan.at_once)
    print(
        f"{what}{len(jobs)} trainings, {len(jobs) - len(todo)} of them done before; the rest will "
        f"take about {in_words(wall)}, {plan.at_once} at a time",
        flush=True,
    )


def do_jobs(plan: Plan, jobs: Sequence[Job]) -> list[str]:
    """Do the jobs that have no record; returns what went wrong."""
    todo = _still_to_do(plan, jobs)
    if not todo:
        return []
    work = plan.folder / "work"
    shutil.rmtree(work, ignore_errors=True)  # of a benchmark that was killed
    work.mkdir(parents=True)
    plan.records.mkdir(parents=True, exist_ok=True)
    known = all_records(plan.records)
    failures = []
    left = {job.name: job for job in todo}
    for job, problem in run_jobs(todo, records=plan.records, work=work, at_once=plan.at_once):
        del left[job.name]
        record = find_record(plan.records, job)
        if record is None:
            failures.append(f"{job}: {problem}")
        else:
            known.append(record)
        wall = CostEstimate(known).wall_seconds(list(left.values()), plan.at_once)
        place = f"[{len(todo) - len(left)}/{len(todo)}]"
        outcome = f"failed, {problem}" if record is None else _outcome(record)
        print(f"{place} {job}: {outcome}; about {in_words(wall)} left", flush=True)
    for failure in failures:
        sys.stderr.write(f"failed: {failure}\n")
    if not failures:
        shutil.rmtree(work)
    return failures


def records_of(plan: Plan, jobs: Iterable[Job]) -> list[Record]:
    """The records of those jobs that have one."""
    found = (find_record(plan.records, job) for job in jobs)
    return [record for record in found if record is not None]


def _still_to_do(plan: Plan, jobs: Iterable[Job]) -> list[Job]:
    return [job for job in jobs if find_record(plan.records, job) is None]


def _outcome(record: Record) -> str:
    values = record.balanced_accuracy
    if not values:
        return f"the loss became infinite, {record.seconds:.0f} s"
    if record.seed != SEARCH_SEED:  # the read-out was chosen before, and nothing is chosen here
        return f"{record.seconds:.0f} s"
    best = max(values, key=lambda readout: values[readout])
    return f"{best} {values[best]:.4f}, {record.seconds:.0f} s"
