"""A source of images: its items, splits and labels."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from data_shards.shards.sample import LABEL_EXTENSION
from data_shards.streams import readable

_PLAIN_SUFFIX = re.compile(r"[a-z0-9]{1,8}")


@dataclass(frozen=True, slots=True)  # one for each image of a source
class SourceItem:
    """One image that can be loaded."""

    name: str
    """Where the image is inside the source, for human readers; unique in a split."""
    labels: Mapping[str, int]
    """Label column -> class id."""
    load: Callable[[], bytes]
    """Returns the image file; several threads may ask at once."""
    extension: str
    """Suffix of the image file without the dot, in lower case."""
    file: Path | None = None
    """The file it is read from, which may hold other images too; None: no file. Its size and
    modification time reveal a change."""


@dataclass(frozen=True)
class Source:
    """The images of a source, by split; without a "test" split, one is drawn from "train".

    A "validation" split is drawn from "train" only on request.
    """

    name: str
    splits: Mapping[str, Sequence[SourceItem]]
    label_columns: tuple[str, ...]
    label_names: Mapping[str, tuple[str, ...]]
    """Label column -> name of each class; a class id is an index into it."""
    unlabelled: tuple[str, ...] = ()
    """Names of images whose labels are unknown; they are in no split."""

    def with_readable_names(self) -> Source:
        """The same images; the names of images and classes can be written anywhere."""
        return replace(
            self,
            splits={
                split: [_readable(item) for item in items] for split, items in self.splits.items()
            },
            label_names={
                column: tuple(map(readable, names)) for column, names in self.label_names.items()
            },
            unlabelled=tuple(map(readable, self.unlabelled)),
        )


def _readable(item: SourceItem) -> SourceItem:
    return item if item.name.isascii() else replace(item, name=readable(item.name))


def class_name(folder_name: str) -> str:
    """Return the name of the class of a folder: names that look the same are the same.

    Systems store an accented letter as one character or as two; copying between them mixes both.
    """
    return unicodedata.normalize("NFC", folder_name)


def extension_of(file_name: str) -> str:
    """Return a file's suffix as a sample's extension, "img" for a suffix that is not allowed."""
    suffix = PurePath(file_name).suffix.lower().removeprefix(".")
    is_allowed = _PLAIN_SUFFIX.fullmatch(suffix) and suffix != LABEL_EXTENSION
    return suffix if is_allowed else "img"
