"""The files of a folder or of a tar, by name."""

from __future__ import annotations

import logging
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data_shards.errors import DataError, named


class StoredFile(NamedTuple):
    """A file of a folder or of a tar."""

    load: Callable[[], bytes]
    """Returns its bytes."""
    path: Path
    """The file itself, or the tar."""


Files = dict[str, StoredFile]
"""Name below the folder or in the tar, with "/" -> the file."""
_OF_SYSTEMS = frozenset(
    ("__MACOSX", "lost+found", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
)
"""Folders that operating systems and archivers leave among one's own."""
_logger = logging.getLogger(__name__)


def visible_files(folder: Path) -> list[Path]:
    """The files at any depth of a folder, in order; only what `is_visible`.

    Links to folders are followed, unless they lead back to a folder that contains them.
    """
    return list(_walk(folder, is_visible))


def is_visible(name: str) -> bool:
    """Whether a file or folder of that name is neither hidden nor made by an operating system."""
    return not name.startswith(".") and not _is_of_system(name)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a broken link counts as a file."""
    # So that reading it fails with its name.
    return os.path.isdir(entry) if entry.is_symlink() else entry.is_dir()


def files_of(path: Path) -> Files:
    """List the files at any depth of a folder or a tar (also .tgz, .tar.xz, ...).

    In a folder, links are followed as by `visible_files`. In a tar, a hard link to an earlier file
    counts as that file, and a warning counts all other links.

    A tar is held in memory: images are read class by class, not in the order of the tar.

    Raises:
        DataError: when the tar cannot be read.
    """
    return _folder_files(path) if path.is_dir() else _tar_files(path)


def refuse_copies(path: Path, names: Iterable[str], image_of: Callable[[str], str]) -> None:
    """Refuse copies of an image, which could end up in both the training and the test split.

    Args:
        path: the folder or tar, for the message.
        names: names of the files, each once.
        image_of: name of a file -> identity of its image, whatever folder it is in.

    Raises:
        DataError: naming the first two files that are the same image.
    """
    first_of: dict[str, str] = {}
    for name in names:
        first = first_of.setdefault(image_of(name), name)
        if first != name:
            raise DataError(
                f"{path} holds an image twice, as {first} and {name}, so it could end up in both "
                "the training and the test split; if these are two versions of a data set, import "
                "the folder of one of them, otherwise remove a file"
            )


def _walk(
    folder: Path, is_wanted: Callable[[str], bool], above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[Path]:
    """The files of a folder in order, then those of each of its folders.

    Args:
        folder: where to look.
        is_wanted: whether a file or folder of that name counts.
        above: device and inode of the folders on the way to `folder`.
    """
    found = folder.stat()
    here = found.st_dev, found.st_ino
    if here in above:
        _logger.warning("%s leads back to a folder that contains it; it is skipped", folder)
        return
    with os.scandir(folder) as entries:
        wanted = [entry for entry in entries if is_wanted(entry.name)]
    if special := sorted(entry.name for entry in wanted if _is_special(entry)):
        _logger.warning("%s: pipes, sockets and devices are skipped: %s", folder, named(special))
    folders = {entry.name: is_folder(entry) for entry in wanted if entry.name not in special}
    names = sorted(folders)
    yield from (folder / name for name in names if not folders[name])
    for name in names:
        if folders[name]:
            yield from _walk(folder / name, is_wanted, above | {here})


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether it is neither a file nor a folder, nor a link to one or to nothing.

    To read such a one may block for ever.
    """
    return not (is_folder(entry) or os.path.isfile(entry)) and os.path.exists(entry)


def _is_of_system(name: str) -> bool:
    return name in _OF_SYSTEMS


def _folder_files(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): StoredFile(path.read_bytes, path)
        for path in _walk(folder, lambda name: not _is_of_system(name))
    }


def _tar_files(path: Path) -> Files:
    contents: dict[str, bytes] = {}
    skipped: list[str] = []
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None:
                    contents[member.name] = file.read()
                elif member.islnk() and member.linkname in contents:
                    contents[member.name] = contents[member.linkname]
                elif not member.isdir():
                    skipped.append(member.name)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, OSError, EOFError) as error:
        raise DataError(f"{path} is not a readable tar: {error}; download it again") from error
    if skipped:
        _logger.warning(
            "%s: skipped %d links and special files: %s; if they are images, make the tar with "
            "the files themselves (tar --dereference --hard-dereference)",
            *(path, len(skipped), named(skipped)),
        )
    return {name: StoredFile(partial(contents.__getitem__, name), path) for name in contents}
