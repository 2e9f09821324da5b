"""The search: settings of each method on families of data sets, its read-out on each data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.accuracy import recipes
from benchmarks.accuracy.jobs import SEARCH_SEED, Job, make_job
from benchmarks.accuracy.recipes import Recipes, default_recipe, family_of, owner_of, trials_of
from benchmarks.accuracy.records import Records
from benchmarks.accuracy.trainings import Plan, do_jobs, say_costs
from data_shards.manifest import Manifest


def search(plan: Plan) -> int:
    """Try every method's grid on the validation images; write the recipes.

    Returns:
        0, or 1 when a training failed.
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
    say_costs(plan, searching.records, searching.jobs(families))
    if others:
        guess = searching.jobs(others, guess=True)
        say_costs(plan, searching.records, guess, what="read-outs of the other data sets: ")
    if plan.dry_run:
        return 0
    failures = 0
    for datasets in (families, others):
        failures += len(do_jobs(plan, searching.records, searching.jobs(datasets)))
        searching.choose(datasets)
    print(plan.recipes)
    return int(bool(failures))


@dataclass(frozen=True, kw_only=True)
class Search:
    """A plan with its validation images, and what was found so far."""

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

    def choose(self, datasets: Iterable[str]) -> None:
        """Write the recipes of which all trials are done, beside those that are in the file."""
        self.found.update(recipes.load(self.plan.recipes))  # another search may have written
        for data in datasets:
            for method in self.methods:
                trials = self._trials(data, method)
                done = self.records.of(trials)
                recipe = recipes.choose(done) if len(done) == len(trials) else None
                if recipe is not None:
                    self.found.setdefault(data, {})[method] = recipe
                    outcome = (
                        f"{recipe.settings}, {recipe.readout}, "
                        f"validation {recipe.balanced_accuracy:.4f}"
                    )
                else:
                    kept = "the former recipe" if method in self.found.get(data, {}) else "none"
                    outcome = f"a trial failed, or every loss became infinite; {kept} is kept"
                print(f"{data}, {method}: {outcome}")
        recipes.save(self.plan.recipes, self.found)

    def _trials(self, data: str, method: str, guess: bool = False) -> list[Job]:
        settings = trials_of(self.found, data, method)
        if guess and not settings:
            settings = [default_recipe(data, method).settings]
        return [
            make_job(
                data,
                method,
                seed=SEARCH_SEED,
                chosen=trial,
                manifest=self.manifests[data],
                split="validation",
            )
            for trial in settings
        ]
