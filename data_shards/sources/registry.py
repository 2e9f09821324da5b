"""The sources of images by name: the one list that the importer, its help and `clmle` read.

A new source is a module in this folder with `read(path) -> Source`, and one entry here.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import NamedTuple

from data_shards.errors import DataError
from data_shards.sources.base import Source


class SourceEntry(NamedTuple):
    """A source as the registry knows it; its module is imported when it is read."""

    module: str
    """Holds `read(path) -> Source`, or `read() -> Source` for a source without a path."""
    layout: str
    """What lies at PATH, in one line."""
    more: str = ""
    """What else there is to say about it, for the help."""
    has_path: bool = True
    """False for a source whose images come with a Python package."""
    has_class_depth: bool = False
    """Whether `read` takes a `class_depth`: which level of folders names the class."""


SOURCES: dict[str, SourceEntry] = {
    "digits": SourceEntry(
        "data_shards.sources.digits",
        "nothing, no PATH: they come with scikit-learn",
        has_path=False,
    ),
    "image-folder": SourceEntry(
        "data_shards.sources.image_folder",
        "CLASS/any files, or train/CLASS/..., test/CLASS/... and perhaps val/CLASS/...",
        "a split may also be called training, testing, eval, evaluation, valid, validation or dev, "
        "in any case; the test split is test, else eval, else val (or dev), and what is left of "
        "these is the validation split",
        has_class_depth=True,
    ),
    "idx": SourceEntry(
        "data_shards.sources.idx",
        "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-..., also with .gz",
    ),
    "lfw": SourceEntry("data_shards.sources.lfw", "NAME/NAME_0001.jpg, in a folder or a tar of it"),
    "utkface": SourceEntry(
        "data_shards.sources.utkface", "AGE_GENDER_RACE_TIME.jpg, in a folder or a tar of it"
    ),
    "celeba": SourceEntry(
        "data_shards.sources.celeba",
        "img_align_celeba/, list_attr_celeba.txt and list_eval_partition.txt",
    ),
}


def find_source(name: str) -> SourceEntry:
    """Look up a source.

    Raises:
        DataError: when there is none of that name; suggests the nearest name.
    """
    if name in SOURCES:
        return SOURCES[name]
    near = difflib.get_close_matches(name.lower(), SOURCES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(SOURCES)}"
    raise DataError(f"unknown source {name!r}; {hint}")


def read_source(name: str, path: Path | None, *, class_depth: int | None = None) -> Source:
    r"""List the images of a source; they are loaded later, one by one.

    Names that are no UTF-8 do not stop an import: their odd bytes become `\xe9` and the like.

    Args:
        name: one of `SOURCES`.
        path: the source's folder or file; None for a source without a path.
        class_depth: which level of folders names the class, >= 1; None: as the source has it.

    Raises:
        DataError: on an unknown source, a class depth that it does not have, or a path that is
            missing, superfluous or does not hold what the source needs.
    """
    entry = find_source(name)
    if not entry.has_path and path is not None:
        raise DataError(f"{name} takes no path ({entry.layout}), got {path}; leave it out")
    if entry.has_path and path is None:
        raise DataError(f"{name} needs a path: clmle import {name} PATH --out DIR")
    if path is not None and not path.exists():
        raise DataError(f"{path} does not exist; expected {entry.layout}")
    if class_depth is not None:
        _check_class_depth(name, entry, class_depth)
    read = importlib.import_module(entry.module).read
    options = {} if class_depth is None else {"class_depth": class_depth}
    source: Source = read(path, **options) if entry.has_path else read()
    return source.with_readable_names()


def _check_class_depth(name: str, entry: SourceEntry, class_depth: int) -> None:
    if not entry.has_class_depth:
        having = ", ".join(other for other, its in SOURCES.items() if its.has_class_depth)
        raise DataError(f"{name} takes no --class-depth; leave it out, only {having} takes it")
    if class_depth < 1:
        raise DataError(f"--class-depth must be >= 1, got {class_depth}")
