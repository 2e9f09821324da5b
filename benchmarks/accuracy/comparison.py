"""The two things that the benchmark does: search recipes, compare methods."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.accuracy import recipes, significance
from benchmarks.accuracy.costs import CostEstimate, in_words
from benchmarks.accuracy.datasets import import_data
from benchmarks.accuracy.jobs import Job, Record, all_records, find_record, make_job
from benchmarks.accuracy.methods import METHODS
from benchmarks.accuracy.plots import can_plot, plot_all
from benchmarks.accuracy.pool import run_jobs
from benchmarks.accuracy.recipes import SEARCH_SEED, Recipe, Recipes
from benchmarks.accuracy.results import (
    Row,
    accuracy_text,
    as_csv,
    make_row,
    score_table,
    shot_text,
    significance_text,
)
from data_shards.atomic import atomic_file, write_json
from data_shards.manifest import Manifest
from trainer.config_file import build_config
from trainer.tasks import resolve_tasks


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for on the command line."""

    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    num_seeds: int
    data: Path | None
    out: Path
    recipes: Path
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


def search(plan: Plan) -> int:
    """Try every method's grid on the validation images; write the recipes.

    Returns:
        0, or 1 when a training failed.
    """
    jobs = []
    for data in plan.datasets:
        manifest = import_data(data, plan.data, plan.folder / "data", validation=True)
        jobs += [
            make_job(
                data,
                method,
                seed=SEARCH_SEED,
                chosen=trial,
                manifest=manifest,
                split="validation",
            )
            for method in plan.methods
            for trial in METHODS[method].trials
        ]
    failures = _do(plan, jobs)
    if plan.dry_run:
        return 0
    found = recipes.load(plan.recipes)
    done = _records(plan, jobs)
    for data in plan.datasets:
        for method in plan.methods:
            trials = [record for record in done if (record.data, record.method) == (data, method)]
            complete = len(trials) == len(METHODS[method].trials)
            recipe = recipes.choose(trials) if complete else None
            if recipe is None:
                print(f"{data}, {method}: no recipe, a trial failed, or every loss became infinite")
            else:
                found.setdefault(data, {})[method] = recipe
                print(
                    f"{data}, {method}: {recipe.settings}, {recipe.readout}, "
                    f"validation {recipe.balanced_accuracy:.4f}"
                )
    recipes.save(plan.recipes, found)
    print(plan.recipes)
    return int(bool(failures))


def compare(plan: Plan) -> int:
    """Train every method with every seed, measure on the test images; print and write results.

    Returns:
        0, or 1 when a training failed.
    """
    found = recipes.load(plan.recipes)
    manifests = {
        data: import_data(data, plan.data, plan.folder / "data", validation=False)
        for data in plan.datasets
    }
    _tell_of_defaults(plan, found)
    jobs = [
        make_job(
            data,
            method,
            seed=seed,
            chosen=_recipe(found, data, method).settings,
            manifest=manifests[data],
            split="test",
        )
        for seed in range(plan.num_seeds)
        for data in plan.datasets
        for method in plan.methods
    ]
    failures = _do(plan, jobs)
    if plan.dry_run:
        return 0
    rows = [
        make_row(record, _recipe(found, record.data, record.method), sizes)
        for record in _records(plan, jobs)
        for sizes in [_class_sizes(manifests[record.data])]
    ]
    rows.sort(key=lambda row: (plan.datasets.index(row.data), plan.methods.index(row.method)))
    _write(plan, rows)
    return int(bool(failures))


def _recipe(found: Recipes, data: str, method: str) -> Recipe:
    return found.get(data, {}).get(method) or recipes.default_recipe(method)


def _tell_of_defaults(plan: Plan, found: Recipes) -> None:
    without = [(d, m) for d in plan.datasets for m in plan.methods if m not in found.get(d, {})]
    if without:
        print(
            f"{len(without)} of {len(plan.datasets) * len(plan.methods)} (data set, method) pairs "
            f"have no recipe in {plan.recipes} and use the method's default learning rate and "
            "read-out; --search chooses them"
        )


def _class_sizes(manifest: Manifest) -> np.ndarray:
    """(C,) training images of each class of the task that is trained."""
    (task,) = resolve_tasks(build_config({}), manifest)
    return manifest.class_counts("train", task.label)


def _do(plan: Plan, jobs: Sequence[Job]) -> list[str]:
    """Do the jobs that have no record; returns what went wrong."""
    todo = [job for job in jobs if find_record(plan.records, job) is None]
    known = all_records(plan.records)
    costs = CostEstimate(known)
    wall = costs.wall_seconds(todo, plan.at_once)
    print(
        f"{len(jobs)} trainings, {len(jobs) - len(todo)} of them done before; the rest will take "
        f"about {in_words(wall)}, {plan.at_once} at a time",
        flush=True,
    )
    if plan.dry_run or not todo:
        return []
    work = plan.folder / "work"
    shutil.rmtree(work, ignore_errors=True)  # of a benchmark that was killed
    work.mkdir(parents=True)
    plan.records.mkdir(parents=True, exist_ok=True)
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


def _outcome(record: Record) -> str:
    values = record.balanced_accuracy
    if not values:
        return f"the loss became infinite, {record.seconds:.0f} s"
    best = max(values, key=lambda readout: values[readout])
    if record.split == "test":  # the read-out was chosen before, and nothing is chosen here
        return f"{record.seconds:.0f} s"
    return f"{best} {values[best]:.4f}, {record.seconds:.0f} s"


def _records(plan: Plan, jobs: Iterable[Job]) -> list[Record]:
    found = (find_record(plan.records, job) for job in jobs)
    return [record for record in found if record is not None]


def _write(plan: Plan, rows: Sequence[Row]) -> None:
    scores, methods = score_table(rows, plan.methods)
    tested = significance.summarise(scores, methods)
    ranks = tested["mean_ranks"] if tested else {}
    sys.stdout.write("\n" + accuracy_text(rows, ranks) + "\n" + shot_text(rows) + "\n")
    sys.stdout.write(significance_text(tested, len({(row.data, row.seed) for row in rows})))
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.platform()}"
    write_json(
        plan.out,
        {
            "command": plan.command,
            "machine": machine,
            "results": [asdict(row) for row in rows],
            "significance": tested,
        },
    )
    table = plan.out.with_suffix(".csv")
    with atomic_file(table) as temporary:
        temporary.write_text(as_csv(rows), encoding="utf-8")
    written = [plan.out, table]
    if not can_plot():
        print("no pictures: matplotlib is not installed (pip install 'clmle[bench]')")
    elif rows:
        written += plot_all(rows, plan.out.with_suffix(""))
    print("\n".join(map(str, written)))
