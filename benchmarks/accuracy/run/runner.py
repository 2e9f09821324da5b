"""Train the jobs that have no record yet, and print how long it will take."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

from benchmarks.accuracy.run.costs import CostEstimate, in_words
from benchmarks.accuracy.run.jobs import SEARCH_SEED, Job
from benchmarks.accuracy.run.plan import Plan
from benchmarks.accuracy.run.pool import run_jobs
from benchmarks.accuracy.run.records import Record, Records


def print_costs(plan: Plan, records: Records, jobs: Sequence[Job], *, what: str = "") -> None:
    """Print how many of the jobs are done, and what the others will cost."""
    todo = records.missing(jobs)
    wall = CostEstimate(records.all()).wall_seconds(todo, plan.at_once)
    print(
        f"{what}{len(jobs)} training runs, {len(jobs) - len(todo)} of them done before; the rest "
        f"will take about {in_words(wall)}, {plan.at_once} at a time",
        flush=True,
    )


def run_missing(plan: Plan, records: Records, jobs: Sequence[Job]) -> list[str]:
    """Run the jobs that have no record; returns a line for each that failed."""
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
            costs.add(result)
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
    if record.seed != SEARCH_SEED:  # in a comparison the read-out was chosen before
        return f"{record.seconds:.0f} s"
    best = max(values, key=lambda readout: values[readout])
    return f"{best} {values[best]:.4f}, {record.seconds:.0f} s"
