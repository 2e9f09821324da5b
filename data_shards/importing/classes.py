"""The classes of an import: what they hold, which are left out, and which cannot be trained.

The one place that demands training images of every class: `check_every_class` before anything is
planned, `check_imported` after the shards are written.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from data_shards.errors import DataError, named
from data_shards.sources.base import Source, SourceItem

_Items = Sequence[SourceItem]
_logger = logging.getLogger(__name__)


def labels_of(items: _Items, column: str) -> npt.NDArray[np.int64]:
    """Return the class of each image: (N,) int64."""
    return np.array([item.labels[column] for item in items], dtype=np.int64)


def class_counts(items: _Items, column: str, num_classes: int) -> npt.NDArray[np.int64]:
    """Return the number of images of each class: (C,) int64."""
    return np.bincount(labels_of(items, column), minlength=num_classes)


def small_classes(source: Source, column: str, min_images: int) -> tuple[str, ...]:
    """The classes of a label column with fewer images outside the held-out splits than asked for.

    Args:
        source: the images.
        column: the label column.
        min_images: fewest images; 1 asks for nothing.
    """
    if min_images <= 1:
        return ()
    return _where(source, column, _counts(source, column)["train"] < min_images)


def empty_classes(source: Source, column: str) -> tuple[str, ...]:
    """The classes of a label column that have no image in any split."""
    return _where(source, column, _total(_counts(source, column).values()) == 0)


def without_classes(source: Source, column: str, left_out: Collection[str]) -> Source:
    """Return a source without some classes of a label column; the others are numbered anew."""
    if not left_out:
        return source
    names = source.label_names[column]
    kept = [number for number, name in enumerate(names) if name not in left_out]
    new_number = {old: new for new, old in enumerate(kept)}
    splits = {
        split: [
            replace(item, labels={**item.labels, column: new_number[item.labels[column]]})
            for item in items
            if item.labels[column] in new_number
        ]
        for split, items in source.splits.items()
    }
    kept_names = tuple(names[old] for old in kept)
    return replace(source, splits=splits, label_names={**source.label_names, column: kept_names})


def check_every_class(source: Source, column: str) -> None:
    """Check that each class of a label column has a training image.

    Raises:
        DataError: naming the classes that have no image at all, and those that have images in
            held-out splits alone, with the names in the training split that look the same.
    """
    counts = _counts(source, column)
    untrained = counts["train"] == 0
    if not untrained.any():
        return
    anywhere = _total(counts.values()) > 0
    problems = []
    if empty := _where(source, column, ~anywhere):
        problems.append(
            f"{_classes(empty, column)} hold no image; add some, remove these classes, or leave "
            "them out with --on-error skip"
        )
    if unknown := _where(source, column, untrained & anywhere):
        problems.append(_held_out_alone(unknown, _where(source, column, ~untrained), column))
    raise DataError("; ".join(problems))


def check_imported(train: _Items, label_names: Mapping[str, tuple[str, ...]]) -> None:
    """Check that each class of each label column has an image among those that were imported.

    Raises:
        DataError: naming the classes that have none.
    """
    lacking = classes_without(train, label_names)
    if lacking:
        classes = "; ".join(_classes(names, column) for column, names in lacking.items())
        raise DataError(
            f"no training image can be read any more of {classes}; repair one of each, and run the "
            "same command again"
        )


def classes_without(
    train: _Items, label_names: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Label column -> its classes without a training image; only columns that have such a class."""
    lacking = {
        column: tuple(
            names[number] for number in np.flatnonzero(class_counts(train, column, len(names)) == 0)
        )
        for column, names in label_names.items()
    }
    return {column: names for column, names in lacking.items() if names}


def columns_left(columns: tuple[str, ...], lacking: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The label columns whose classes all have a training image; a warning names the others.

    Args:
        columns: label columns.
        lacking: label column -> its classes without a training image.
    """
    left_out = [
        f"{column} (no {lacking[column][0]!r})" for column in columns if lacking.get(column)
    ]
    if left_out:
        _logger.warning(
            "left out %d label(s) that have a class without a training image: %s; to keep one, "
            "import with more training images or another --seed, or with that --label",
            *(len(left_out), named(left_out)),
        )
    return tuple(column for column in columns if not lacking.get(column))


def _counts(source: Source, column: str) -> dict[str, npt.NDArray[np.int64]]:
    """Split -> images of each class."""
    num_classes = len(source.label_names[column])
    return {
        split: class_counts(items, column, num_classes) for split, items in source.splits.items()
    }


def _total(counts: Iterable[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    total: npt.NDArray[np.int64] = np.sum([*counts], axis=0)
    return total


def _where(source: Source, column: str, chosen: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    names = source.label_names[column]
    return tuple(names[number] for number in np.flatnonzero(chosen))


def _classes(names: Sequence[str], column: str) -> str:
    return f"{len(names):,} class(es) of {column!r} ({named(names)})"


def _held_out_alone(unknown: Sequence[str], trained: Sequence[str], column: str) -> str:
    """What is wrong with classes that occur outside the training split alone."""
    trained_of = {_letters(name): name for name in trained}
    respelt = [
        f"{name!r} (train: {trained_of[_letters(name)]!r})"
        for name in unknown
        if _letters(name) in trained_of
    ]
    what = (
        f"{_classes(unknown, column)} have images in a held-out split but none in train, which "
        f"has {named(trained) or 'none'}"
    )
    if respelt:
        return f"{what}; some are only spelt otherwise, give them one name: {named(respelt)}"
    return (
        f"{what}; the splits must show the same classes: move some of their images to train, or "
        "remove them from the held-out splits"
    )


def _letters(name: str) -> str:
    """Name without what spellings differ in: case, spaces, hyphens, underscores."""
    return re.sub(r"[\s_-]+", "", name).casefold()
