"""Labeled Faces in the Wild and sets laid out like it: NAME/NAME_0001.jpg, a folder or a tar."""

from __future__ import annotations

import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

from data_shards.errors import DataError
from data_shards.sources.base import Source, SourceItem, extension_of

COLUMN = "identity"
_NUMBER = re.compile(r"_\d+\.\w+")


def read(path: Path) -> Source:
    """List the faces of a folder or of a tar (also .tgz, .tar.xz, ...).

    Only files NAME/NAME_NUMBER.SUFFIX count, at any depth; lists and notes beside them do not. A
    tar is held in memory: images are wanted class by class, not in its order.

    Raises:
        DataError: when there is no such file, or the tar cannot be read.
    """
    files = _folder_files(path) if path.is_dir() else _tar_files(path)
    faces = sorted(name for name in files if _is_face(name))
    if not faces:
        raise DataError(f"{path} holds no face; expected files such as Ann_Lee/Ann_Lee_0001.jpg")
    identities = tuple(sorted({_identity(name) for name in faces}))
    number_of = {identity: number for number, identity in enumerate(identities)}
    items = [
        SourceItem(name, {COLUMN: number_of[_identity(name)]}, files[name], extension_of(name))
        for name in faces
    ]
    return Source("lfw", {"train": items}, (COLUMN,), {COLUMN: identities})


def _identity(name: str) -> str:
    return PurePosixPath(name).parent.name


def _is_face(name: str) -> bool:
    file_name, identity = PurePosixPath(name).name, _identity(name)
    is_numbered = _NUMBER.fullmatch(file_name.removeprefix(identity)) is not None
    return bool(identity) and file_name.startswith(identity) and is_numbered


def _folder_files(folder: Path) -> dict[str, Callable[[], bytes]]:
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return {path.relative_to(folder).as_posix(): path.read_bytes for path in paths}


def _tar_files(path: Path) -> dict[str, Callable[[], bytes]]:
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None:
                    contents[member.name] = file.read()
    except (tarfile.TarError, lzma.LZMAError, zlib.error, OSError, EOFError) as error:
        raise DataError(f"{path} is no tar that can be read: {error}") from error
    return {name: partial(contents.__getitem__, name) for name in contents}
