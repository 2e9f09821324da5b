"""The search: settings of each method on families of data sets, its read-out on each data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.accuracy.run import recipes
from benchmarks.accuracy.run.jobs import SEARCH_SEED, Job, make_job
from benchmarks.accuracy.run.plan import Plan
from benchmarks.accuracy.run.recipes import (
    Recipe,
    Recipes,
    default_recipe,
    family_of,
    owner_of,
    trials_of,
)
from benchmarks.accuracy.run.records import Records
from benchmarks.accuracy.run.runner import print_costs, run_missing
from data_shards.shards.manifest import Manifest


def search(plan: Plan) -> int:
    """Try every method's grid on the validation images; write the recipes.

    Returns:
        0, or 1 when a training run failed.
    """
    families = list(dict.fromkeys(map(family_of, plan.datasets)))
    others = [data for data in plan.datasets if data not in families]
    searching = Search(
        plan=plan,
        found=recipes.load(plan.recipes),
        records=Records(plan.records),
        methods=tuple(dict.fromkeys(map(owner_of, plan.methods))),
        manifests=plan.import_data([*families, *others], validation=True),
    )
    print_costs(plan, searching.records, searching.jobs(families))
    if others:
        guess = searching.jobs(others, guess=True)
        print_costs(plan, searching.records, guess, what="read-outs of the other data sets: ")
    if plan.dry_run:
        return 0
    failures = 0
    for datasets in (families, others):
        failures += len(run_missing(plan, searching.records, searching.jobs(datasets)))
        beyond = searching.jobs_beyond(datasets)
        if beyond:
            print_costs(plan, searching.records, beyond, what="an end of the grid was best: ")
        failures += len(run_missing(plan, searching.records, beyond))
        searching.choose(datasets)
    print(plan.recipes)
    return int(bool(failures))


@dataclass(frozen=True, kw_only=True)
class Search:
    """A plan with its validation images, and the recipes found so far."""

    plan: Plan
    found: Recipes
    records: Records
    methods: tuple[str, ...]
    manifests: Mapping[str, Manifest]

    def jobs(self, datasets: Iterable[str], *, guess: bool = False) -> list[Job]:
        """The trials of all methods.

        Args:
            datasets: on which.
            guess: take a family's middle rate where none was found yet.
        """
        return [
            job for data in datasets for m in self.methods for job in self._trials(data, m, guess)
        ]

    def jobs_beyond(self, datasets: Iterable[str]) -> list[Job]:
        """The trials beyond an end of the grid, of the methods for which that end was best."""
        return [job for data in datasets for m in self.methods for job in self._beyond(data, m)]

    def choose(self, datasets: Iterable[str]) -> None:
        """Add the recipes whose trials are all done to the file."""
        self.found.update(recipes.load(self.plan.recipes))  # another search may have written
        for data in datasets:
            for method in self.methods:
                trials = [*self._trials(data, method), *self._beyond(data, method)]
                checksum = recipes.search_checksum(self.found, data, method)
                recipe = self._best(trials, checksum)
                if recipe is not None:
                    self.found.setdefault(data, {})[method] = recipe
                    outcome = (
                        f"{recipe.settings}, {recipe.readout}, "
                        f"validation {recipe.balanced_accuracy:.4f}"
                    )
                else:
                    kept = "the previous recipe" if method in self.found.get(data, {}) else "none"
                    outcome = f"a trial failed, or every loss became infinite; {kept} is kept"
                print(f"{data}, {method}: {outcome}")
        recipes.save(self.plan.recipes, self.found)

    def _trials(self, data: str, method: str, guess: bool = False) -> list[Job]:
        settings = trials_of(self.found, data, method)
        if guess and not settings:
            settings = [default_recipe(data, method).settings]
        return [self._job(data, method, trial) for trial in settings]

    def _beyond(self, data: str, method: str) -> list[Job]:
        best = self._best(self._trials(data, method))
        trial = None if best is None else recipes.trial_beyond(data, best)
        return [] if trial is None else [self._job(data, method, trial)]

    def _best(self, trials: Sequence[Job], checksum: str | None = None) -> Recipe | None:
        """The recipe of trials; None before all are done, or where every loss became infinite."""
        done = self.records.of(trials)
        return recipes.choose(done, searched_with=checksum) if len(done) == len(trials) else None

    def _job(self, data: str, method: str, trial: Mapping[str, Any]) -> Job:
        return make_job(
            data,
            method,
            seed=SEARCH_SEED,
            chosen=trial,
            manifest=self.manifests[data],
            split="validation",
        )
