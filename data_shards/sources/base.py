"""What a source of images is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from data_shards.shards.sample import LABEL_EXTENSION

_PLAIN_SUFFIX = re.compile(r"[a-z0-9]{1,8}")


@dataclass(frozen=True, slots=True)  # there is one for each image of a source
class SourceItem:
    """One image that can be loaded."""

    name: str
    """Where the image lies inside the source, for people; unique in a split."""
    labels: Mapping[str, int]
    """Label column -> class id."""
    load: Callable[[], bytes]
    """Returns the image file."""
    extension: str
    """Suffix of the image file without the dot, in lower case."""
    file: Path | None = None
    """Where it is read from: a file of its own, or one that holds others too; None: from no file.
    Its size and time of modification tell a change."""


@dataclass(frozen=True)
class Source:
    """The images of a source, by split; without a "test" split one is taken from "train".

    A "validation" split is taken from "train" only on demand.
    """

    name: str
    splits: Mapping[str, Sequence[SourceItem]]
    label_columns: tuple[str, ...]
    label_names: Mapping[str, tuple[str, ...]]
    """Label column -> name of each class; class ids are places in it."""
    unlabelled: tuple[str, ...] = ()
    """Names of images whose labels cannot be told; they are in no split."""


def extension_of(file_name: str) -> str:
    """Return a file's suffix as a sample's extension, "img" for a suffix that cannot serve."""
    suffix = PurePath(file_name).suffix.lower().removeprefix(".")
    serves = _PLAIN_SUFFIX.fullmatch(suffix) and suffix != LABEL_EXTENSION
    return suffix if serves else "img"
