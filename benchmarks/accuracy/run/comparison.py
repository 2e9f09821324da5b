"""The comparison: every method with every seed on the same images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.run import recipes
from benchmarks.accuracy.run.best_methods import best_methods, costliest_methods
from benchmarks.accuracy.run.jobs import Job, class_sizes, make_job
from benchmarks.accuracy.run.methods import METHODS, OURS
from benchmarks.accuracy.run.plan import Plan
from benchmarks.accuracy.run.recipes import Recipe, Recipes, default_recipe, find_recipe
from benchmarks.accuracy.run.records import Record, Records
from benchmarks.accuracy.run.rows import Row, make_row
from benchmarks.accuracy.run.runner import print_costs, run_missing
from data_shards.shards.manifest import Manifest

_FURTHER = "further seeds of the best methods: "


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A plan with its images, recipes and records."""

    plan: Plan
    found: Recipes
    records: Records
    manifests: Mapping[str, Manifest]

    @classmethod
    def of(cls, plan: Plan) -> Comparison:
        """Read the files that a plan names, and import its images.

        Raises:
            DataError: the records or recipes are not this benchmark's, or images are missing.
        """
        return cls(
            plan=plan,
            found=recipes.load(plan.recipes),
            records=Records(plan.records),
            manifests=plan.import_data(plan.datasets, validation=plan.split == "validation"),
        )

    def print_costs(self, first: Sequence[Job]) -> None:
        """Print how long the runs that are left will take, and which choices they rest on.

        Args:
            first: what `first_jobs` returns.
        """
        self._print_recipe_notes()
        self._print_omitted_ablations(first)
        print_costs(self.plan, self.records, first)
        if self.plan.top_seeds > self.plan.num_seeds:
            guess = self.further_jobs(first, guess=True)
            print_costs(self.plan, self.records, guess, what=_FURTHER)

    def train(self, first: Sequence[Job]) -> tuple[list[Job], list[str]]:
        """Train every method with every seed, then the best methods with further seeds.

        Args:
            first: what `first_jobs` returns.

        Returns:
            All jobs, those that failed too; and a line for each that failed.
        """
        failures = run_missing(self.plan, self.records, first)
        further = self.further_jobs(first)
        if further:
            print_costs(self.plan, self.records, further, what=_FURTHER)
        failures += run_missing(self.plan, self.records, further)
        return [*first, *further], failures

    def recipe(self, data: str, method: str) -> Recipe:
        """Settings and read-out of a method on a data set."""
        return find_recipe(self.found, data, method) or default_recipe(data, method)

    def job(self, data: str, method: str, seed: int) -> Job:
        """One training run."""
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
                print(f"{data}: no further seeds of the best methods before all runs succeed")
                continue
            jobs += [self.job(data, method, seed) for method in methods for seed in seeds]
        return jobs

    def rows(self, jobs: Iterable[Job]) -> list[Row]:
        """The results of the finished runs."""
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

    def _print_recipe_notes(self) -> None:
        """Print how many recipes are missing (defaults are used) and which may be outdated."""
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
                "code's, or with unknown ones; they are used, --search makes new ones:"
            )
        for data, methods in old.items():
            print(f"  {data}: {', '.join(methods)}")

    def _is_own(self, data: str, method: str) -> bool:
        return recipes.owner_of(method) in self.found.get(data, {})

    def _print_omitted_ablations(self, first: Sequence[Job]) -> None:
        """Print which ablations are left out, as they change nothing."""
        made = {(job.data, job.method) for job in first}
        for method in self.plan.methods:
            same = [data for data in self.plan.datasets if (data, method) not in made]
            if same:
                print(f"{method} is {OURS} itself on {', '.join(same)}, and is left out there")
