"""Everything that can be known about an import before it writes: one that starts can end well."""

from __future__ import annotations

import logging
from dataclasses import replace

from data_shards.errors import DataError, named
from data_shards.images.limits import ImageLimits
from data_shards.importing.classes import columns_left, without_classes
from data_shards.importing.copies import settle_copies
from data_shards.importing.plan import ImportOptions, ImportPlan, plan_import
from data_shards.importing.usable import unusable_classes, why_unusable
from data_shards.sources.base import Source

_logger = logging.getLogger(__name__)


def prepare_import(source: Source, options: ImportOptions) -> ImportPlan:
    """Plan an import in which each class has a training image that can be used.

    If `options.on_error` is "skip", other classes are left out, as if the source did not have them:
    who then removes them has the same import. The same goes for label columns after the first.

    Raises:
        DataError: as `plan_import` and `settle_copies` do; or when no training image of a class can
            be used and `options.on_error` is "stop".
    """
    left_out: tuple[str, ...] = ()
    while True:
        plan = settle_copies(plan_import(source, options), options)
        lacking = unusable_classes(plan, options.limits)
        column = plan.label_columns[0]
        names = lacking.get(column, ())
        if not names:
            break
        if options.on_error == "stop":
            raise _unusable(plan, names, options.limits)
        left_out += names
        source = without_classes(source, column, names)
    left_out += plan.unusable_classes
    if left_out:
        _logger.warning(
            "left out %d class(es) without an image that can be used: %s",
            *(len(left_out), named(left_out)),
        )
    columns = columns_left(plan.label_columns, lacking)
    return replace(
        plan,
        label_columns=columns,
        label_names={column: plan.label_names[column] for column in columns},
        unusable_classes=left_out,
    )


def _unusable(plan: ImportPlan, names: tuple[str, ...], limits: ImageLimits) -> DataError:
    """The error about classes of which no training image can be used."""
    column = plan.label_columns[0]
    number = plan.label_names[column].index(names[0])
    example = next(item for item in plan.splits["train"] if item.labels[column] == number)
    return DataError(
        f"no training image of {len(names):,} class(es) of {column!r} can be used: {named(names)} "
        f"({example.name}: {why_unusable(example, limits)}); repair one of each, remove these "
        "classes, or leave them out with --on-error skip"
    )
