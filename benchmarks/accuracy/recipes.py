"""Learning rate and read-out of each method on each data set, chosen on validation images.

`benchmarks/recipes.json` holds the choices and everything that was tried:

    {data set: {method: {"learning_rate", "readout", "balanced_accuracy",
                         "tried": {learning rate: {read-out: balanced accuracy}}}}}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.accuracy.jobs import Record
from benchmarks.accuracy.methods import METHODS
from data_shards.atomic import read_json, write_json
from data_shards.errors import DataError

DEFAULT_PATH = Path(__file__).parents[1] / "recipes.json"
SEARCH_SEED = 1000
"""No seed of a suite, so that no final training starts from weights that were chosen."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What was chosen for one method on one data set."""

    learning_rate: float
    readout: str
    balanced_accuracy: float | None = None
    """On the validation images; None for defaults that nothing has chosen."""
    tried: Mapping[str, Mapping[str, float]]
    """Learning rate -> read-out -> balanced accuracy; no read-out where the loss became
    infinite."""


Recipes = dict[str, dict[str, Recipe]]
"""Data set -> method -> recipe."""


def choose(records: Iterable[Record]) -> Recipe | None:
    """Choose the best of one method's trials on one data set.

    Args:
        records: of the validation split, one a learning rate.

    Returns:
        The recipe, on a tie that of the lower learning rate; None when every loss became infinite.
    """
    trials = sorted(records, key=lambda record: record.learning_rate)
    best: tuple[float, float, str] | None = None
    for trial in trials:
        for readout, value in trial.balanced_accuracy.items():
            if best is None or value > best[0]:
                best = value, trial.learning_rate, readout
    if best is None:
        return None
    value, learning_rate, readout = best
    return Recipe(
        learning_rate=learning_rate,
        readout=readout,
        balanced_accuracy=value,
        tried={f"{trial.learning_rate:g}": trial.balanced_accuracy for trial in trials},
    )


def default_recipe(method: str) -> Recipe:
    """What a method gets where nothing was searched."""
    entry = METHODS[method]
    return Recipe(learning_rate=entry.default_learning_rate, readout=entry.readout, tried={})


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
