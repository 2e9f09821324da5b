"""Labeled Faces in the Wild and data sets like it: NAME/NAME_0001.jpg in a folder or a tar."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from data_shards.errors import DataError
from data_shards.sources.base import Source, SourceItem, class_name, extension_of
from data_shards.sources.files import files_of, refuse_copies

COLUMN = "identity"
_NUMBER = re.compile(r"_\d+\.\w+")


def read(path: Path) -> Source:
    """List the faces of a folder or a tar (also .tgz, .tar.xz, ...).

    Only files NAME/NAME_NUMBER.SUFFIX count, at any depth; other files are ignored.

    Raises:
        DataError: when there is no such file, a face occurs twice, such as in lfw/ and
            lfw-deepfunneled/, or the tar cannot be read.
    """
    files = files_of(path)
    faces = sorted(name for name in files if _is_face(name))
    if not faces:
        raise DataError(f"{path} holds no face; expected files such as Ann_Lee/Ann_Lee_0001.jpg")
    refuse_copies(path, faces, lambda name: class_name(PurePosixPath(name).stem))
    identities = tuple(sorted({_identity(name) for name in faces}))
    number_of = {identity: number for number, identity in enumerate(identities)}
    items = [
        SourceItem(
            name,
            {COLUMN: number_of[_identity(name)]},
            files[name].load,
            extension_of(name),
            files[name].path,
        )
        for name in faces
    ]
    return Source("lfw", {"train": items}, (COLUMN,), {COLUMN: identities})


def _identity(name: str) -> str:
    return class_name(PurePosixPath(name).parent.name)


def _is_face(name: str) -> bool:
    file_name, identity = class_name(PurePosixPath(name).name), _identity(name)
    is_numbered = _NUMBER.fullmatch(file_name.removeprefix(identity)) is not None
    return bool(identity) and file_name.startswith(identity) and is_numbered
