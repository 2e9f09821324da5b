"""Settings and read-out of each method on each family of data sets, chosen on validation images.

A family shares the recipes that were chosen on one of its data sets, for every method alike; its
other data sets are searched for no method.

`benchmarks/recipes.json` holds the choices and everything that was tried:

    {family: {method: {"settings", "readout", "balanced_accuracy", "searched_with",
                       "tried": [{"settings", "balanced_accuracy": {read-out: ...}}]}}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy.datasets import DATASETS
from benchmarks.accuracy.jobs import Record, stated_settings
from benchmarks.accuracy.methods import METHODS, OURS
from data_shards.atomic import read_json, write_json
from data_shards.errors import DataError

DEFAULT_PATH = Path(__file__).parents[1] / "recipes.json"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What was chosen for one method on one family of data sets."""

    settings: dict[str, Any]
    """Dotted: the learning rate."""
    readout: str
    balanced_accuracy: float | None = None
    """On the validation images; None for defaults that nothing has chosen."""
    tried: list[dict[str, Any]]
    """`settings` and `balanced_accuracy` by read-out of each trial; without a read-out where the
    loss became infinite."""
    searched_with: str | None = None
    """`search_checksum` at the time of the search; None = not known, or not searched."""


Recipes = dict[str, dict[str, Recipe]]
"""Family -> method -> recipe."""


def family_of(data: str) -> str:
    """Name of the data set on which the recipes of a data set are searched."""
    return DATASETS[data].family or data


def owner_of(method: str) -> str:
    """Name of the method whose recipes a method takes: an ablation takes CLMLE's."""
    return method if METHODS[method].ablation is None else OURS


def find_recipe(found: Recipes, data: str, method: str) -> Recipe | None:
    """The recipe of a method on a data set; None where nothing was chosen."""
    return found.get(family_of(data), {}).get(owner_of(method))


def search_checksum(family: str, method: str) -> str:
    """12 hexadecimal digits that change with what the code states of a search.

    That is every setting before the search, the options of the import and the grid; not the images.
    """
    dataset = DATASETS[family]
    stated = [stated_settings(family, method), dict(dataset.options), dataset.trials]
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:12]


def outdated(found: Recipes, pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Which recipes were not searched with what the code states now, as far as is known.

    Args:
        found: all recipes.
        pairs: (data set, method) that are wanted; those without a recipe are passed over.

    Returns:
        Family -> methods, each that has such a recipe, once.
    """
    made: dict[str, list[str]] = {}
    for family, method in dict.fromkeys((family_of(d), owner_of(m)) for d, m in pairs):
        recipe = find_recipe(found, family, method)
        if recipe is not None and recipe.searched_with != search_checksum(family, method):
            made.setdefault(family, []).append(method)
    return made


def choose(records: Iterable[Record]) -> Recipe | None:
    """Choose the best of one method's trials on one data set.

    Args:
        records: of the validation split, one a trial, in the order of the grid.

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
        searched_with=search_checksum(trials[0].data, trials[0].method),
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
        raise DataError(f"{path} holds no recipes ({error}); make it anew by --search") from error


def save(path: Path, recipes: Recipes) -> None:
    """Write recipes."""
    write_json(
        path,
        {
            data: {method: asdict(recipe) for method, recipe in of_data.items()}
            for data, of_data in recipes.items()
        },
    )
