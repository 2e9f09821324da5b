"""The search: settings and read-out of each method on each family of data sets."""

from __future__ import annotations

from benchmarks.accuracy import recipes
from benchmarks.accuracy.datasets import DATASETS, import_data
from benchmarks.accuracy.jobs import SEARCH_SEED, make_job
from benchmarks.accuracy.recipes import family_of, owner_of
from benchmarks.accuracy.records import Records
from benchmarks.accuracy.trainings import Plan, do_jobs, say_costs


def search(plan: Plan) -> int:
    """Try every method's grid on the validation images; write the recipes.

    Returns:
        0, or 1 when a training failed.
    """
    families = list(dict.fromkeys(map(family_of, plan.datasets)))
    methods = list(dict.fromkeys(map(owner_of, plan.methods)))
    jobs = []
    for family in families:
        manifest = import_data(family, plan.data, plan.folder / "data", validation=True)
        jobs += [
            make_job(
                family,
                method,
                seed=SEARCH_SEED,
                chosen=trial,
                manifest=manifest,
                split="validation",
            )
            for method in methods
            for trial in DATASETS[family].trials
        ]
    records = Records(plan.records)
    say_costs(plan, records, jobs)
    if plan.dry_run:
        return 0
    failures = do_jobs(plan, records, jobs)
    found = recipes.load(plan.recipes)
    done = records.of(jobs)
    for family in families:
        for method in methods:
            trials = [record for record in done if (record.data, record.method) == (family, method)]
            complete = len(trials) == len(DATASETS[family].trials)
            recipe = recipes.choose(trials) if complete else None
            if recipe is None:
                print(
                    f"{family}, {method}: no recipe, a trial failed, or every loss became infinite"
                )
            else:
                found.setdefault(family, {})[method] = recipe
                print(
                    f"{family}, {method}: {recipe.settings}, {recipe.readout}, "
                    f"validation {recipe.balanced_accuracy:.4f}"
                )
    recipes.save(plan.recipes, found)
    print(plan.recipes)
    return int(bool(failures))
