"""A row: the result of a training run by the read-out of its method."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.accuracy.run.recipes import Recipe
from benchmarks.accuracy.run.records import Record
from data_shards.errors import DataError
from trainer.evaluation.shot_groups import SHOT_GROUPS


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training run: a method on a data set with a seed, by the method's read-out."""

    data: str
    method: str
    seed: int
    readout: str
    balanced_accuracy: float | None
    """On the images of the comparison's split; None when the loss became infinite."""
    many: float | None
    """Mean recall of the classes with more than 100 training images; None when there are none."""
    medium: float | None
    """Those with 20 to 100."""
    few: float | None
    """Those with fewer than 20."""
    images_seen: int
    precision: str
    seconds: float


def make_row(record: Record, recipe: Recipe) -> Row:
    """Read a record by its recipe.

    Args:
        record: of the split that is compared.
        recipe: whose read-out counts.

    Raises:
        DataError: the run has no such read-out.
    """
    values = record.balanced_accuracy
    if values and recipe.readout not in values:
        raise DataError(
            f"{record.data}, {record.method}: the recipe wants read-out {recipe.readout}, the "
            f"run has {', '.join(values)}; search again (--search)"
        )
    nothing: dict[str, float | None] = dict.fromkeys(SHOT_GROUPS)
    return Row(
        data=record.data,
        method=record.method,
        seed=record.seed,
        readout=recipe.readout,
        balanced_accuracy=values.get(recipe.readout),
        images_seen=record.images_seen,
        precision=record.precision,
        seconds=record.seconds,
        **record.recall_by_size.get(recipe.readout, nothing),
    )


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation of the sample; None for one value."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), deviation


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of those that are there; None of none."""
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None
