"""Settings and read-out of each method on each data set, chosen on validation images.

Data sets of a family share the settings that were chosen on one of them, the same for every method.
The read-out is chosen on each data set's own validation images.

`benchmarks/recipes.json` holds the choices and everything that was tried:

    {data: {method: {"settings", "readout", "balanced_accuracy", "searched_with",
                     "tried": [{"settings", "balanced_accuracy": {read-out: ...}}]}}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.run.datasets import DATASETS
from benchmarks.accuracy.run.jobs import stated_settings
from benchmarks.accuracy.run.methods import METHODS, OURS
from benchmarks.accuracy.run.records import Record
from data_shards.atomic import read_json, write_json
from data_shards.errors import DataError
from trainer.config.recipe import derive

DEFAULT_PATH = Path(__file__).parents[2] / "recipes.json"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What was chosen for one method on one data set."""

    settings: dict[str, Any]
    """Dotted: the learning rate."""
    readout: str
    balanced_accuracy: float | None = None
    """On the validation images; None for defaults that nothing has chosen."""
    tried: list[dict[str, Any]]
    """`settings` and `balanced_accuracy` by read-out of each trial; without a read-out where the
    loss became infinite."""
    searched_with: str | None = None
    """`search_checksum` at the time of the search; None = unknown, or not searched."""


# Few large classes and many small ones.
_HISTOGRAMS = (np.array([5000, 500]), np.full(150, 30))

Recipes = dict[str, dict[str, Recipe]]
"""Data set -> method -> recipe."""


def family_of(data: str) -> str:
    """Name of the data set on which the settings of a data set are searched."""
    return DATASETS[data].family or data


def owner_of(method: str) -> str:
    """Name of the method whose recipes a method takes: an ablation takes CLMLE's."""
    return method if METHODS[method].ablation is None else OURS


def find_recipe(found: Recipes, data: str, method: str) -> Recipe | None:
    """The recipe of a method on a data set, or else on its family's; None where there is none."""
    own = found.get(data, {}).get(owner_of(method))
    return own or found.get(family_of(data), {}).get(owner_of(method))


def trials_of(found: Recipes, data: str, method: str) -> list[dict[str, Any]]:
    """Dotted settings of each trial of a search.

    Returns:
        The grid on a family's own data set; on its others the settings that were found there, none
        as long as none were.
    """
    family = family_of(data)
    if data == family:
        return DATASETS[data].trials
    recipe = found.get(family, {}).get(method)
    return [] if recipe is None else [recipe.settings]


def trial_beyond(data: str, best: Recipe) -> dict[str, Any] | None:
    """The trial beyond the end of a family's grid where that end is best; None elsewhere."""
    return DATASETS[data].trial_beyond(best.settings) if data == family_of(data) else None


def search_checksum(found: Recipes, data: str, method: str) -> str:
    """12 hexadecimal digits that change with what the code states of a search.

    That is every setting before the search, what a recipe derives for two histograms, the options
    of the import, the trials and what may be tried beyond them; not the images.

    Args:
        found: all recipes: a data set's search rests on its family's.
        data: the data set.
        method: not an ablation.
    """
    settings, trials = stated_settings(data, method), trials_of(found, data, method)
    stated: list[Any] = [settings, dict(DATASETS[data].options), trials]
    if data == family_of(data):
        stated.append([DATASETS[data].trial_beyond(trial) for trial in trials])
    if "recipe" in settings:
        stated += [[[d.setting, d.value] for d in derive([h], settings)] for h in _HISTOGRAMS]
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]


def outdated(found: Recipes, pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Which recipes were not searched with what the code states now, as far as is known.

    Args:
        found: all recipes.
        pairs: (data set, method) that are wanted; those without a recipe are passed over.

    Returns:
        Data set -> methods, each that has such a recipe, once. A data set's own recipe rests on its
        family's, which is looked at too.
    """
    places = [
        (data, owner_of(method)) for d, method in pairs for data in dict.fromkeys([family_of(d), d])
    ]
    made: dict[str, list[str]] = {}
    for data, method in dict.fromkeys(places):
        recipe = found.get(data, {}).get(method)
        if recipe is not None and recipe.searched_with != search_checksum(found, data, method):
            made.setdefault(data, []).append(method)
    return made


def choose(records: Iterable[Record], *, searched_with: str | None = None) -> Recipe | None:
    """Choose the best of one method's trials on one data set.

    Args:
        records: of the validation split, one a trial, in the order of the grid.
        searched_with: their `search_checksum`.

    Returns:
        The recipe, on a tie that of the earlier trial; None when every loss became infinite.
    """
    trials = list(records)
    results = [
        (value, trial.chosen, readout)
        for trial in trials
        for readout, value in trial.balanced_accuracy.items()
    ]
    if not results:
        return None
    value, settings, readout = max(results, key=lambda result: result[0])
    return Recipe(
        settings=settings,
        readout=readout,
        balanced_accuracy=value,
        tried=[
            {"settings": trial.chosen, "balanced_accuracy": trial.balanced_accuracy}
            for trial in trials
        ],
        searched_with=searched_with,
    )


def default_recipe(data: str, method: str) -> Recipe:
    """What a method gets on a data set where nothing was searched."""
    settings = DATASETS[family_of(data)].default_trial
    return Recipe(settings=settings, readout=METHODS[owner_of(method)].readout, tried=[])


def load(path: Path) -> Recipes:
    """Read recipes; none when there is no file.

    Raises:
        DataError: the file is not as `save` writes it.
    """
    if not path.exists():
        return {}
    try:
        return {
            data: {method: Recipe(**entry) for method, entry in of_data.items()}
            for data, of_data in read_json(path).items()
        }
    except (TypeError, AttributeError) as error:
        raise DataError(
            f"{path} holds no recipes ({error}); make a new one with --search"
        ) from error


def save(path: Path, recipes: Recipes) -> None:
    """Write recipes."""
    write_json(
        path,
        {
            data: {method: asdict(recipe) for method, recipe in of_data.items()}
            for data, of_data in recipes.items()
        },
    )
