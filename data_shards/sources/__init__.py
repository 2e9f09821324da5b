"""Where images come from: one module a source, each with `read(...) -> Source`."""

from __future__ import annotations

from pathlib import Path

from data_shards.errors import DataError
from data_shards.sources import celeba, digits, idx, image_folder, lfw, utkface
from data_shards.sources.base import Source

_READERS = {
    "idx": idx.read,
    "image-folder": image_folder.read,
    "lfw": lfw.read,
    "utkface": utkface.read,
    "celeba": celeba.read,
}
SOURCE_NAMES = ("digits", *_READERS)


def read_source(name: str, path: Path | None) -> Source:
    """List the images of a source; they are loaded later, one by one.

    Args:
        name: one of `SOURCE_NAMES`.
        path: the source's folder or file; None for digits.

    Raises:
        DataError: on a path that is missing, superfluous, or does not hold what the source needs.
    """
    if name == "digits":
        if path is not None:
            raise DataError(f"digits come with scikit-learn and take no path, got {path}")
        return digits.read()
    if name not in _READERS:
        raise DataError(f"unknown source {name!r}, expected one of {', '.join(SOURCE_NAMES)}")
    if path is None:
        raise DataError(f"{name} needs a path: clmle import {name} PATH --out DIR")
    if not path.exists():
        raise DataError(f"{path} does not exist; where do the images of {name} lie?")
    return _READERS[name](path)
