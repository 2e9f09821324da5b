"""The comparison: every method with every seed on the same images, then what they came to."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.report import significance
from benchmarks.accuracy.report.ablation_table import ablation_text, summarise_ablations
from benchmarks.accuracy.report.claims import claims_text, summarise_claims
from benchmarks.accuracy.report.plots import can_plot, plot_all
from benchmarks.accuracy.report.readouts import readout_cells, summarise_readouts
from benchmarks.accuracy.report.results import (
    Row,
    as_csv,
    make_row,
    precision_text,
    score_table,
    significance_text,
)
from benchmarks.accuracy.report.row_cells import (
    accuracy_cells,
    by_rank,
    chosen_cells,
    shot_cells,
    with_ranks,
)
from benchmarks.accuracy.report.seeds import best_methods, costliest_methods
from benchmarks.accuracy.run import recipes
from benchmarks.accuracy.run.jobs import Job, Record, class_sizes, make_job
from benchmarks.accuracy.run.methods import METHODS, OURS
from benchmarks.accuracy.run.recipes import Recipe, Recipes, find_recipe
from benchmarks.accuracy.run.records import Records
from benchmarks.accuracy.run.trainings import Plan, do_jobs, say_costs
from cluster_jobs.comparison import aligned
from data_shards.atomic import atomic_file, write_json
from data_shards.shards.manifest import Manifest


def compare(plan: Plan) -> int:
    """Train every method with every seed, measure on the plan's split; print and write results.

    Returns:
        0, or 1 when a training failed.
    """
    comparison = Comparison(
        plan=plan,
        found=recipes.load(plan.recipes),
        records=Records(plan.records),
        manifests=plan.import_data(plan.datasets, validation=plan.split == "validation"),
    )
    comparison.tell_of_recipes()
    first = comparison.first_jobs()
    comparison.tell_of_ablations(first)
    say_costs(plan, comparison.records, first)
    if plan.top_seeds > plan.num_seeds:
        guess = comparison.further_jobs(first, guess=True)
        say_costs(plan, comparison.records, guess, what="further seeds of the best methods: ")
    if plan.dry_run:
        return 0
    failures = do_jobs(plan, comparison.records, first)
    further = comparison.further_jobs(first)
    if further:
        say_costs(plan, comparison.records, further, what="further seeds of the best methods: ")
    failures += do_jobs(plan, comparison.records, further)
    comparison.write([*first, *further])
    return int(bool(failures))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A plan with its images and recipes."""

    plan: Plan
    found: Recipes
    records: Records
    manifests: Mapping[str, Manifest]

    def recipe(self, data: str, method: str) -> Recipe:
        """Settings and read-out of a method on a data set."""
        return find_recipe(self.found, data, method) or recipes.default_recipe(data, method)

    def job(self, data: str, method: str, seed: int) -> Job:
        """One training."""
        return make_job(
            data,
            method,
            seed=seed,
            chosen=self.recipe(data, method).settings,
            manifest=self.manifests[data],
            split=self.plan.split,
        )

    def first_jobs(self) -> list[Job]:
        """Of every method, the seeds that all have; without ablations that change nothing."""
        return [
            job
            for seed in range(self.plan.num_seeds)
            for data in self.plan.datasets
            for method in self.plan.methods
            for job in [self.job(data, method, seed)]
            if METHODS[method].ablation is None or job.config != self.job(data, OURS, seed).config
        ]

    def further_jobs(self, first: Sequence[Job], *, guess: bool = False) -> list[Job]:
        """More seeds of the best methods of each data set whose first seeds are all done.

        Args:
            first: all of the first seeds.
            guess: take the costliest methods where the best are not known yet.
        """
        seeds = range(self.plan.num_seeds, self.plan.top_seeds)
        jobs = []
        for data in self.plan.datasets if seeds else ():
            wanted = [job for job in first if job.data == data]
            rows = self.rows(wanted)
            if len(rows) == len(wanted):
                methods = best_methods(rows, self.plan.methods)
            elif guess:
                methods = costliest_methods(self.plan.methods)
            else:
                print(f"{data}: no further seeds of the best methods before all trainings succeed")
                continue
            jobs += [self.job(data, method, seed) for method in methods for seed in seeds]
        return jobs

    def rows(self, jobs: Iterable[Job]) -> list[Row]:
        """What the trainings that are done came to."""
        return [
            make_row(record, self._recipe_of_record(record)) for record in self.records.of(jobs)
        ]

    def _recipe_of_record(self, record: Record) -> Recipe:
        """The recipe by which it is read: an ablation may have taken away CLMLE's read-out."""
        recipe, method = self.recipe(record.data, record.method), METHODS[record.method]
        values = record.balanced_accuracy
        if method.ablation is not None and values and recipe.readout not in values:
            return replace(recipe, readout=method.readout)
        return recipe

    def image_counts(self) -> dict[str, npt.NDArray[np.int64]]:
        """Data set -> (C,) images of each class that are measured on."""
        split = self.plan.split
        return {data: class_sizes(manifest, split) for data, manifest in self.manifests.items()}

    def tell_of_recipes(self) -> None:
        """Say how many are missing, so that defaults are used, and which may be outdated."""
        pairs = [(data, method) for data in self.plan.datasets for method in self.plan.methods]
        without = [pair for pair in pairs if find_recipe(self.found, *pair) is None]
        if without:
            print(
                f"{len(without)} of {len(pairs)} (data set, method) pairs have no recipe in "
                f"{self.plan.recipes} and use the method's default learning rate and read-out; "
                "--search chooses them"
            )
        borrowed = [pair for pair in pairs if pair not in without and not self._is_own(*pair)]
        if borrowed:
            print(
                f"{len(borrowed)} of {len(pairs)} pairs have no recipe of their own and use the "
                "read-out that was chosen on another data set of the family; --search chooses it"
            )
        old = recipes.outdated(self.found, pairs)
        if old:
            print(
                f"recipes in {self.plan.recipes} that were searched with other settings than the "
                "code's, or with unknown ones; they are used, --search makes them anew:"
            )
        for data, methods in old.items():
            print(f"  {data}: {', '.join(methods)}")

    def _is_own(self, data: str, method: str) -> bool:
        return recipes.owner_of(method) in self.found.get(data, {})

    def tell_of_ablations(self, first: Sequence[Job]) -> None:
        """Say which ablations are left out, as CLMLE is so anyway."""
        made = {(job.data, job.method) for job in first}
        for method in self.plan.methods:
            same = [data for data in self.plan.datasets if (data, method) not in made]
            if same:
                print(f"{method} is {OURS} itself on {', '.join(same)}, and is left out there")

    def write(self, jobs: Sequence[Job]) -> None:
        """Print what the trainings that are done came to; write it beside the plan's file."""
        plan = self.plan
        rows = self.rows(jobs)
        rows.sort(key=lambda row: (plan.datasets.index(row.data), plan.methods.index(row.method)))
        records = self.records.of(jobs)
        ours = {(r.data, r.seed): r.balanced_accuracy for r in records if r.method == OURS}
        _write(
            plan,
            rows,
            summarise_readouts(records, plan.datasets),
            summarise_ablations(rows, ours),
            summarise_claims(rows, plan.datasets, self.image_counts()),
        )


def _write(
    plan: Plan,
    rows: Sequence[Row],
    readouts: Mapping[str, Mapping[str, float]],
    ablations: Sequence[Mapping[str, Any]] | None,
    claims: dict[str, Any] | None,
) -> None:
    # Variants of CLMLE are tested beside it in the same way, by `summarise_ablations`.
    peers = [method for method in plan.methods if METHODS[method].ablation is None]
    tested = significance.summarise(*score_table(rows, peers), control=OURS)
    _say(plan, rows, tested, readouts)
    if len(peers) > 1:
        sys.stdout.write(significance_text(tested, rows))
    sys.stdout.write(ablation_text(ablations) + claims_text(claims) + precision_text(rows))
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}"
    write_json(
        plan.out,
        {
            "command": plan.command,
            "machine": machine,
            "split": plan.split,
            "results": [asdict(row) for row in rows],
            "significance": tested,
            "ablations": ablations,
            "claims": claims,
            "readouts": readouts,
        },
    )
    table = plan.out.with_suffix(".csv")
    with atomic_file(table) as temporary:
        temporary.write_text(as_csv(rows), encoding="utf-8")
    written = [plan.out, table]
    if not can_plot():
        print("no pictures: matplotlib is not installed (pip install -e '.[bench]')")
    elif rows:
        written += plot_all(rows, plan.out.with_suffix(""), plan.split)
    print("\n".join(map(str, written)))


def _say(
    plan: Plan,
    rows: Sequence[Row],
    tested: Mapping[str, Any] | None,
    readouts: Mapping[str, Mapping[str, float]],
) -> None:
    ranks = tested["mean_ranks"] if tested else {}
    methods = by_rank(rows, ranks)
    tables = {
        f"balanced accuracy, {plan.split} images, mean +- standard deviation over the seeds": (
            with_ranks(accuracy_cells(rows, methods), ranks)
        ),
        "recall of classes with many (> 100) / medium / few (< 20) training images": (
            shot_cells(rows, methods)
        ),
        "read-outs by which these were measured": chosen_cells(rows, methods),
    }
    if readouts:
        tables["balanced accuracy by one read-out"] = readout_cells(readouts)
    for heading, cells in tables.items():
        sys.stdout.write(f"\n{heading}\n{aligned(cells)}")
    sys.stdout.write("\n")
