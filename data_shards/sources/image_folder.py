"""A folder of images with a folder per class: ROOT/CLASS/image.jpg."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_shards.errors import DataError, named
from data_shards.sources.base import Source, SourceItem, class_name, extension_of
from data_shards.sources.files import is_folder, is_visible, visible_files

COLUMN = "class"
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "eval": ("eval", "evaluation"),
    "val": ("val", "valid", "validation", "dev"),
}
"""Names of the folders of a split, in any case. Of the held-out ones, the first that exists is the
test split, the next one the validation split."""
_KIND_OF = {name: kind for kind, names in _SPLIT_NAMES.items() for name in names}
_DESCRIPTIONS = (".csv", ".json", ".md", ".tsv", ".txt", ".xml", ".yaml", ".yml")
"""Suffixes of files that often lie beside the folders of classes, and are no images."""
_logger = logging.getLogger(__name__)


def read(root: Path, *, class_depth: int | None = None) -> Source:
    """List the images below `root`.

    There are two layouts: `CLASS/...`, and `train/CLASS/...` with `test/CLASS/...` and perhaps
    `val/CLASS/...` (or other usual names of splits). Folders inside a class folder,
    including linked ones, are searched too. What is hidden or made by an operating system is
    skipped; every other file counts as an image. The label column is "class", its names are the
    folders' in Unicode's composed form.

    Args:
        root: the folder.
        class_depth: which level of folders names the class: 1 those in `root`, or in `train/` and
            the like, 2 those inside them, ...; folders of one name are one class. None: 1, if they
            look like classes.

    Raises:
        DataError: when there is no class folder, a split has two folders, there are other folders
            next to the splits, or the folders do not look like classes.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; expected {root}/CLASS/image.jpg")
    folders = _split_folders(root)
    classes = {split: _class_folders(folder, class_depth) for split, folder in folders.items()}
    names = tuple(
        sorted({class_name(folder.name) for found in classes.values() for folder in found})
    )
    labels_of = {name: {COLUMN: number} for number, name in enumerate(names)}
    splits = {
        split: [
            SourceItem(
                path.relative_to(root).as_posix(),
                labels_of[class_name(folder.name)],
                path.read_bytes,
                extension_of(path.name),
                path,
            )
            for folder in found
            for path in visible_files(folder)
        ]
        for split, found in classes.items()
    }
    return Source("image-folder", splits, (COLUMN,), {COLUMN: names})


def _split_folders(root: Path) -> dict[str, Path]:
    """Return split -> folder of its class folders."""
    folders = _visible_folders([root])
    kinds = [_KIND_OF.get(folder.name.casefold()) for folder in folders]
    splits = {
        kind: [folder for folder, own in zip(folders, kinds, strict=True) if own == kind]
        for kind in _SPLIT_NAMES
        if kind in kinds
    }
    others = [folder.name for folder, kind in zip(folders, kinds, strict=True) if kind is None]
    if "train" not in splits or (others and len(splits) == 1):
        return {"train": root}
    found = [folder for same in splits.values() for folder in same]
    if others:
        raise DataError(
            f"{root} holds the splits {_names(found)}, but also {named(others)}; expected either "
            f"splits or classes, not both: move {named(others)} away, or, if {found[0].name} is a "
            "class here, rename it"
        )
    for same in splits.values():
        if len(same) > 1:
            raise DataError(
                f"{root} holds {_names(same)}, all for one split; merge them, or move all but one "
                "away"
            )
    if len(splits) > len(("train", "test", "validation")):
        raise DataError(
            f"{root} holds {_names(found)}, but an import has one test and one validation split; "
            "merge two of them, or move one away"
        )
    return dict(zip(("train", "test", "validation"), found, strict=False))


def _class_folders(folder: Path, class_depth: int | None) -> list[Path]:
    """The folders of classes of a split.

    Raises:
        DataError: there is none, or `class_depth` is None and they do not look like classes.
    """
    level = [folder]
    for _ in range(class_depth or 1):
        _warn_of_loose_files(folder, level)
        level = _visible_folders(level)
    if not level:
        expected = "/".join([str(folder), *("FOLDER",) * ((class_depth or 1) - 1), "CLASS"])
        raise DataError(
            f"{folder} has no class folder; expected {expected}/image.jpg (a class of the name of "
            "a split, such as train or test, must be renamed)"
        )
    if class_depth is None:
        _check_level(folder, level)
    _warn_of_forms(level)
    return level


def _check_level(parent: Path, folders: Sequence[Path]) -> None:
    """Check that the folders are those of classes, and not above them.

    Raises:
        DataError: all of them hold only folders, or some do and the names of these recur.
    """
    inner = {folder.name: names for folder in folders if (names := _only_folders(folder))}
    times = Counter(name for names in inner.values() for name in names)
    times.update(folder.name for folder in folders)
    recurring = sorted(name for names in inner.values() for name in names if times[name] > 1)
    if not recurring and len(inner) < len(folders):
        return
    some = next(iter(inner))
    what = f"{_names(folders)} in {parent}" if len(inner) == len(folders) else named([*inner])
    again = f" ({named(list(dict.fromkeys(recurring)))} more than once)" if recurring else ""
    if splits := sorted(name for name in inner[some] if name.casefold() in _KIND_OF):
        raise DataError(  # --class-depth 2 would make classes of the splits
            f"expected class folders that hold images, but {some} in {parent} holds folders that "
            f"are named like splits: {named(splits)}; import {parent / some} alone, or, if {some} "
            "is a class, add --class-depth 1"
        )
    raise DataError(
        f"expected class folders that hold images, but {what} hold only folders, such as "
        f"{some}/{min(inner[some])}{again}; if these inner folders are the classes, add "
        f"--class-depth 2, or import {parent / some} alone; if {some} is a class, add "
        "--class-depth 1"
    )


def _only_folders(folder: Path) -> frozenset[str]:
    """Names of the folders in a folder without a file that may be an image; empty for another."""
    names = set()
    with os.scandir(folder) as entries:
        for entry in filter(lambda entry: is_visible(entry.name), entries):
            if is_folder(entry):
                names.add(class_name(entry.name))
            elif not entry.name.lower().endswith(_DESCRIPTIONS):
                return frozenset()
    return frozenset(names)


def _warn_of_loose_files(folder: Path, level: Iterable[Path]) -> None:
    loose = [
        entry.name
        for above in level
        for entry in above.iterdir()
        if entry.is_file() and is_visible(entry.name)
    ]
    if loose:
        _logger.warning(
            "%s: %d files outside the class folders are not imported, such as %s",
            *(folder, len(loose), min(loose)),
        )


def _warn_of_forms(folders: Iterable[Path]) -> None:
    """Say which classes have several folders whose names look the same."""
    forms = {folder.name for folder in folders}
    several = [name for name, times in Counter(map(class_name, forms)).items() if times > 1]
    if several:
        _logger.warning(
            "folders whose names differ only in their Unicode form are one class: %s",
            named(sorted(several)),
        )


def _names(folders: Sequence[Path]) -> str:
    return named([folder.name for folder in folders])


def _visible_folders(parents: Iterable[Path]) -> list[Path]:
    return [
        folder
        for parent in parents
        for folder in sorted(
            entry for entry in parent.iterdir() if is_visible(entry.name) and entry.is_dir()
        )
    ]
