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
    has_path: bool = True
    """False for a source whose images come with a Python package."""


SOURCES: dict[str, SourceEntry] = {
    "digits": SourceEntry(
        "data_shards.sources.digits",
        "nothing, no PATH: they come with scikit-learn",
        has_path=False,
    ),
    "image-folder": SourceEntry(
        "data_shards.sources.image_folder",
        "CLASS/any files, or train/CLASS/..., test/CLASS/... and perhaps val/CLASS/...",
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


def read_source(name: str, path: Path | None) -> Source:
    r"""List the images of a source; they are loaded later, one by one.

    Names that are no UTF-8 do not stop an import: their odd bytes become `\xe9` and the like.

    Args:
        name: one of `SOURCES`.
        path: the source's folder or file; None for a source without a path.

    Raises:
        DataError: on an unknown source, or a path that is missing, superfluous or does not hold
            what the source needs.
    """
    entry = find_source(name)
    if not entry.has_path and path is not None:
        raise DataError(f"{name} takes no path ({entry.layout}), got {path}")
    if entry.has_path and path is None:
        raise DataError(f"{name} needs a path: clmle import {name} PATH --out DIR")
    if path is not None and not path.exists():
        raise DataError(f"{path} does not exist; expected {entry.layout}")
    read = importlib.import_module(entry.module).read
    source: Source = read(path) if entry.has_path else read()
    return source.with_readable_names()
