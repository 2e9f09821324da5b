"""The files of a folder or of a tar, by name."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data_shards.errors import DataError


class StoredFile(NamedTuple):
    """A file of a folder or of a tar."""

    load: Callable[[], bytes]
    """Returns its bytes."""
    path: Path
    """The file itself, or the tar."""


Files = dict[str, StoredFile]
"""Name below the folder or in the tar, with "/" -> the file."""


def visible_files(folder: Path) -> list[Path]:
    """The files at any depth of a folder, in order; hidden files and folders are passed over."""
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(filter(is_visible, folders))
        files += [Path(parent, name) for name in sorted(filter(is_visible, names))]
    return files


def is_visible(name: str) -> bool:
    """Whether a file or folder of that name is not hidden."""
    return not name.startswith(".")


def files_of(path: Path) -> Files:
    """List what lies at any depth of a folder or of a tar (also .tgz, .tar.xz, ...).

    A tar is held in memory: images are wanted class by class, not in its order.

    Raises:
        DataError: when the tar cannot be read.
    """
    return _folder_files(path) if path.is_dir() else _tar_files(path)


def refuse_copies(path: Path, names: Iterable[str], image_of: Callable[[str], str]) -> None:
    """Refuse files that are the same image: its copies could come into training and test split.

    Args:
        path: the folder or tar, for the message.
        names: of the files, each once.
        image_of: what tells which image a file is, whatever the folder that it lies in.

    Raises:
        DataError: naming the first two files that are the same image.
    """
    first_of: dict[str, str] = {}
    for name in names:
        first = first_of.setdefault(image_of(name), name)
        if first != name:
            raise DataError(
                f"{path} holds an image twice, as {first} and {name}, so that it could come into "
                "training and test split; if these are two versions of a set, import the folder "
                "of one alone, otherwise remove a file"
            )


def _folder_files(folder: Path) -> Files:
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return {
        path.relative_to(folder).as_posix(): StoredFile(path.read_bytes, path) for path in paths
    }


def _tar_files(path: Path) -> Files:
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None:
                    contents[member.name] = file.read()
    except (tarfile.TarError, lzma.LZMAError, zlib.error, OSError, EOFError) as error:
        raise DataError(f"{path} is no tar that can be read: {error}") from error
    return {name: StoredFile(partial(contents.__getitem__, name), path) for name in contents}
