"""A folder of images with a folder per class: ROOT/CLASS/image.jpg."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from data_shards.errors import DataError
from data_shards.sources.base import Source, SourceItem, extension_of

COLUMN = "class"
_SPLIT_NAMES = frozenset({"train", "test", "val"})
_logger = logging.getLogger(__name__)


def read(root: Path) -> Source:
    """List the images below `root`.

    Two layouts serve: `CLASS/...` and `train/CLASS/...` beside `test/CLASS/...` (or `val/`).
    Folders inside a class folder are walked too. Hidden files and folders are passed over; every
    other file counts as an image. The label column is "class", its names are the folders'.

    Raises:
        DataError: when there is no class folder, or one without an image.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; expected {root}/CLASS/image.jpg")
    folders = _split_folders(root)
    classes = {split: _class_folders(folder) for split, folder in folders.items()}
    names = tuple(sorted({folder.name for found in classes.values() for folder in found}))
    number_of = {name: number for number, name in enumerate(names)}
    splits = {
        split: [
            SourceItem(
                path.relative_to(root).as_posix(),
                {COLUMN: number_of[folder.name]},
                path.read_bytes,
                extension_of(path.name),
            )
            for folder in found
            for path in _files(folder)
        ]
        for split, found in classes.items()
    }
    return Source("image-folder", splits, (COLUMN,), {COLUMN: names})


def _split_folders(root: Path) -> dict[str, Path]:
    """Return split -> folder that holds its class folders."""
    names = {folder.name for folder in _visible_folders(root)}
    if "train" not in names or not names <= _SPLIT_NAMES:
        return {"train": root}
    folders = {"train": root / "train"}
    tests = [name for name in ("test", "val") if name in names]
    if tests:
        folders["test"] = root / tests[0]
    if len(tests) > 1:
        _logger.warning("%s: val is not imported, test serves as the test split", root)
    return folders


def _class_folders(folder: Path) -> list[Path]:
    folders = _visible_folders(folder)
    if not folders:
        raise DataError(f"{folder} has no class folder; expected {folder}/CLASS/image.jpg")
    loose = [entry.name for entry in folder.iterdir() if entry.is_file() and _visible(entry.name)]
    if loose:
        _logger.warning(
            "%s: %d files beside the class folders are not imported, such as %s",
            folder,
            len(loose),
            min(loose),
        )
    return folders


def _files(class_folder: Path) -> list[Path]:
    files: list[Path] = []
    for parent, folders, names in os.walk(class_folder):
        folders[:] = sorted(filter(_visible, folders))
        files += [Path(parent, name) for name in sorted(filter(_visible, names))]
    if not files:
        raise DataError(f"class folder {class_folder} holds no image; add some or remove it")
    return files


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and _visible(entry.name))


def _visible(name: str) -> bool:
    return not name.startswith(".")
