"""A folder of images with a folder per class: ROOT/CLASS/image.jpg."""

from __future__ import annotations

import logging
from pathlib import Path

from data_shards.errors import DataError, named
from data_shards.sources.base import Source, SourceItem, extension_of
from data_shards.sources.files import is_visible, visible_files

COLUMN = "class"
_HELD_OUT_NAMES = ("test", "val", "validation")
"""Folders that may be held-out splits: the first that exists is the test split; if that is "test",
another one is the validation split."""
_logger = logging.getLogger(__name__)


def read(root: Path) -> Source:
    """List the images below `root`.

    There are two layouts: `CLASS/...`, and `train/CLASS/...` with `test/CLASS/...` and perhaps
    `val/CLASS/...` (or `validation/`). Without `test`, `val` is the test split. Folders inside a
    class folder, including linked ones, are searched too. Hidden files and folders are skipped;
    every other file counts as an image. The label column is "class", its names are the folders'.

    Raises:
        DataError: when there is no class folder, a class folder has no image, a split has two
            folders, or there are other folders next to the splits.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; expected {root}/CLASS/image.jpg")
    folders = _split_folders(root)
    classes = {split: _class_folders(folder) for split, folder in folders.items()}
    names = tuple(sorted({folder.name for found in classes.values() for folder in found}))
    labels_of = {name: {COLUMN: number} for number, name in enumerate(names)}
    splits = {
        split: [
            SourceItem(
                path.relative_to(root).as_posix(),
                labels_of[folder.name],
                path.read_bytes,
                extension_of(path.name),
                path,
            )
            for folder in found
            for path in _images(folder)
        ]
        for split, found in classes.items()
    }
    return Source("image-folder", splits, (COLUMN,), {COLUMN: names})


def _split_folders(root: Path) -> dict[str, Path]:
    """Return split -> folder of its class folders."""
    names = {folder.name for folder in _visible_folders(root)}
    held_out = [name for name in _HELD_OUT_NAMES if name in names]
    others = sorted(names.difference({"train"}, held_out))
    if "train" not in names or (others and not held_out):
        return {"train": root}
    if others:
        raise DataError(
            f"{root} holds the splits train and {held_out[0]}, but also {named(others)}; expected "
            f"either splits or classes, not both: move {named(others)} away, or, if train is a "
            "class here, rename it"
        )
    if {"val", "validation"} <= names:
        raise DataError(f"{root} holds both val and validation; merge them, or move one away")
    splits = dict(zip(("train", "test", "validation"), ("train", *held_out), strict=False))
    return {split: root / name for split, name in splits.items()}


def _class_folders(folder: Path) -> list[Path]:
    folders = _visible_folders(folder)
    if not folders:
        raise DataError(f"{folder} has no class folder; expected {folder}/CLASS/image.jpg")
    loose = [entry.name for entry in folder.iterdir() if entry.is_file() and is_visible(entry.name)]
    if loose:
        _logger.warning(
            "%s: %d files outside the class folders are not imported, such as %s",
            folder,
            len(loose),
            min(loose),
        )
    return folders


def _images(class_folder: Path) -> list[Path]:
    files = visible_files(class_folder)
    if not files:
        raise DataError(f"class folder {class_folder} holds no image; add some or remove it")
    return files


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and is_visible(entry.name))
