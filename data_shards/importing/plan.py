"""Decides, before anything is written, the split and the id of each image of a source."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data_shards.errors import DataError
from data_shards.images.limits import USUAL_LIMITS, ImageLimits
from data_shards.importing.classes import (
    check_every_class,
    class_counts,
    classes_without,
    columns_left,
    empty_classes,
    labels_of,
    small_classes,
    without_classes,
)
from data_shards.importing.long_tail import long_tail_counts, split_per_class, thin
from data_shards.shards.manifest import FORMAT
from data_shards.sources.base import Source, SourceItem

DEFAULT_TEST_FRACTION = 0.25
SPLITS = ("train", "test", "validation")
"""In the order of their ids."""
_ITEMS_AT_ONCE = 1000  # of a fingerprint
_logger = logging.getLogger(__name__)
_Items = Sequence[SourceItem]


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How a source is imported."""

    out: Path
    """Folder to fill: empty, missing, or holding the same import unfinished."""
    long_tail_ratio: float = 1.0
    """Training images of class 0 over those of the last class; 1 thins nothing."""
    max_per_class: int | None = None
    """Most training images of a class; None: as many as the largest class has."""
    min_images: int = 1
    """Classes with fewer images than this are left out."""
    test_fraction: float | None = None
    """Share of test images where the source has no test split; None: 0.25, 0: no test split."""
    validation_fraction: float = 0.0
    """Share of the images outside the test split that become a validation split; 0: none."""
    label: str | None = None
    """Label column that comes first: it decides class order, long tail and splits; None: the
    source's first."""
    seed: int = 0
    samples_per_shard: int = 2000
    on_error: Literal["stop", "skip"] = "stop"
    """What to do at an image that cannot be read, and at a class without an image."""
    duplicates: Literal["stop", "keep", "drop"] = "stop"
    """What to do with copies of an image, see `importing.copies`."""
    limits: ImageLimits = USUAL_LIMITS
    """Images beyond them cannot be read."""

    def __post_init__(self) -> None:
        rules = {
            "--long-tail-ratio must be >= 1": 1 <= self.long_tail_ratio < np.inf,
            "--max-per-class must be >= 1": self.max_per_class is None or self.max_per_class >= 1,
            "--min-images must be >= 1": self.min_images >= 1,
            "--test-fraction must be >= 0 and < 1": 0 <= (self.test_fraction or 0) < 1,
            "--validation-fraction must be >= 0 and < 1": 0 <= self.validation_fraction < 1,
            "--seed must be >= 0": self.seed >= 0,
            "--samples-per-shard must be >= 1": self.samples_per_shard >= 1,
            "--on-error must be stop or skip": self.on_error in ("stop", "skip"),
            "--duplicates must be stop, keep or drop": self.duplicates in ("stop", "keep", "drop"),
        }
        for rule, holds in rules.items():
            if not holds:
                name = rule.split()[0].removeprefix("--").replace("-", "_")
                raise DataError(f"{rule}, got {getattr(self, name)}")

    def settings(self) -> dict[str, Any]:
        """Return the settings that decide what is imported, as JSON; 1 and 1.0 are the same."""
        fraction = self.test_fraction
        return {
            "long_tail_ratio": float(self.long_tail_ratio),
            "max_per_class": self.max_per_class,
            "min_images": self.min_images,
            "test_fraction": fraction if fraction is None else float(fraction),
            "validation_fraction": float(self.validation_fraction),
            "seed": self.seed,
            "samples_per_shard": self.samples_per_shard,
        }


@dataclass(frozen=True, kw_only=True)
class ImportPlan:
    """The images of an import in the order of their ids: train from 0, the others after it."""

    source: str
    label_columns: tuple[str, ...]
    label_names: Mapping[str, tuple[str, ...]]
    splits: Mapping[str, Sequence[SourceItem]]
    """Class after class of the first label column."""
    settings: Mapping[str, Any]
    wanted_counts: tuple[int, ...]
    """Training images that the long tail asked for of each class of the first label column."""
    dropped_classes: tuple[str, ...] = ()
    """Classes of the first label column that have too few images."""
    skipped: tuple[str, ...] = ()
    """Images that are left out because their labels are unknown."""
    unusable_classes: tuple[str, ...] = ()
    """Classes of the first label column that are left out since no training image can be used."""
    dropped_copies: tuple[str, ...] = ()
    """Images that are left out because they are copies of others."""
    notes: tuple[str, ...] = ()
    """What the summary of the import says about its images."""

    def first_id(self, split: str) -> int:
        """Return the id of the first sample of a split."""
        names = list(self.splits)
        return sum(len(self.splits[name]) for name in names[: names.index(split)])

    def fingerprint(self) -> str:
        """Return a checksum of everything that decides the files written, except the images.

        It does not depend on where the images are; their changes are noticed per shard
        (`write_shard`).
        """
        digest = hashlib.sha256()
        for text in self._as_json():
            digest.update(text.encode("ascii"))
        return digest.hexdigest()

    def _as_json(self) -> Iterator[str]:
        """The JSON text of the fingerprint's input, in parts: as a whole it would be large."""
        to_json = json.JSONEncoder(sort_keys=True, default=dict).encode
        head = [FORMAT, self.source, self.label_columns, self.label_names, self.settings]
        yield to_json(head)[:-1] + ", {"
        for number, split in enumerate(sorted(self.splits)):
            yield f"{', ' if number else ''}{to_json(split)}: ["
            items = self.splits[split]
            for first in range(0, len(items), _ITEMS_AT_ONCE):
                part = [(i.name, dict(i.labels)) for i in items[first : first + _ITEMS_AT_ONCE]]
                yield f"{', ' if first else ''}{to_json(part)[1:-1]}"
            yield "]"
        yield "}]"


def plan_import(source: Source, options: ImportOptions) -> ImportPlan:
    """Choose classes, splits and long tail.

    Test and validation split are drawn before the training images are thinned, so that they are
    as balanced as the source. Label columns after the first are left out if one of their classes
    has no training image.

    Raises:
        DataError: when fewer than two classes of the first label column remain, or one of these has
            no training image (one that has no image at all is left out if `options.on_error` is
            "skip"), or the labels of an image are unknown and `options.on_error` is "stop".
    """
    check_labels(source, options)
    columns = ordered_columns(source, options.label)
    column = columns[0]
    small = small_classes(source, column, options.min_images)
    source = without_classes(source, column, small)
    empty = empty_classes(source, column) if options.on_error == "skip" else ()
    source = without_classes(source, column, empty)
    check_every_class(source, column)
    names = source.label_names[column]
    if len(names) < 2:
        way = "lower --min-images" if small else "name the folder that holds all classes"
        raise DataError(
            f"training needs at least two classes, got {len(names)} of {source.name} with at least "
            f"{options.min_images:,} image(s): {', '.join(names) or 'none'}; {way}"
        )
    splits = _with_test_split(dict(source.splits), column, options)
    splits = _with_validation_split(splits, column, options)
    splits["train"], wanted = _thin_train(splits["train"], column, len(names), options)
    label_names = {name: source.label_names[name] for name in columns}
    columns = columns_left(columns, classes_without(splits["train"], label_names))
    return ImportPlan(
        source=source.name,
        label_columns=columns,
        label_names={name: label_names[name] for name in columns},
        splits={
            split: sorted(splits[split], key=lambda item: item.labels[column])
            for split in SPLITS
            if splits.get(split)
        },
        settings=options.settings(),
        wanted_counts=tuple(wanted.tolist()),
        dropped_classes=small,
        unusable_classes=empty,
        skipped=source.unlabelled,
    )


def check_labels(source: Source, options: ImportOptions) -> None:
    """Check that the labels of every image are known, unless such images may be skipped.

    Raises:
        DataError: naming the first image that has none.
    """
    if source.unlabelled and options.on_error == "stop":
        raise DataError(
            f"the labels of {len(source.unlabelled):,} image(s) are unknown, the first is "
            f"{source.unlabelled[0]}; correct its name or remove it, or leave such images out with "
            "--on-error skip"
        )


def ordered_columns(source: Source, first: str | None) -> tuple[str, ...]:
    """Return the label columns, the requested one first.

    Raises:
        DataError: when there is no such column.
    """
    if first is None:
        return source.label_columns
    if first not in source.label_columns:
        raise DataError(
            f"{source.name} has no label {first!r}; name one that it has: "
            f"{', '.join(source.label_columns)}"
        )
    return (first, *(column for column in source.label_columns if column != first))


def _with_test_split(
    splits: dict[str, _Items], column: str, options: ImportOptions
) -> dict[str, _Items]:
    if "test" in splits:
        if options.test_fraction is not None:
            _logger.warning("--test-fraction is not used: the source has a test split of its own")
        return splits
    fraction = DEFAULT_TEST_FRACTION if options.test_fraction is None else options.test_fraction
    items = splits["train"]
    rng = np.random.default_rng([options.seed, 0])
    train, test = split_per_class(labels_of(items, column), fraction, rng)
    return {
        **splits,
        "train": [items[at] for at in train],
        "test": [items[at] for at in test],
    }


def _with_validation_split(
    splits: dict[str, _Items], column: str, options: ImportOptions
) -> dict[str, _Items]:
    if not options.validation_fraction:
        return splits
    if "validation" in splits:
        _logger.warning(
            "--validation-fraction is not used: the source has a validation split of its own"
        )
        return splits
    items = splits["train"]
    # A stream of its own: the test split does not change with the validation split.
    rng = np.random.default_rng([options.seed, 2])
    train, chosen = split_per_class(labels_of(items, column), options.validation_fraction, rng)
    return {
        **splits,
        "train": [items[at] for at in train],
        "validation": [items[at] for at in chosen],
    }


def _thin_train(
    train: _Items, column: str, num_classes: int, options: ImportOptions
) -> tuple[_Items, npt.NDArray[np.int64]]:
    """Return the training images that stay, and the number asked for of each class."""
    labels = labels_of(train, column)
    largest = int(class_counts(train, column, num_classes).max())
    counts = long_tail_counts(
        num_classes, options.max_per_class or largest, options.long_tail_ratio
    )
    # A stream of its own: the test split does not change with the long tail.
    kept = thin(labels, counts, np.random.default_rng([options.seed, 1]))
    return [train[at] for at in kept], counts
