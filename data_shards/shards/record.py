"""Entries of manifests: read from JSON, and compared with the files that they describe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from data_shards.atomic import sha256_of
from data_shards.errors import DataError

_Record = TypeVar("_Record")
_TYPES = {"str": str, "int": int}
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def record_from_json(kind: type[_Record], entry: Any) -> _Record:
    """Make a dataclass of `str` and `int` fields from a JSON object; other keys are ignored.

    A field `name` becomes part of paths, so it must be letters, digits, - and _ only.

    Raises:
        DataError: on a missing key or a value of another type.
    """
    found = entry if isinstance(entry, Mapping) else {}
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        value: Any = found.get(field.name)
        if type(value) is not _TYPES[str(field.type)]:
            raise DataError(f"damaged entry: expected {field.name!r}: {field.type} in {entry!r}")
        if field.name == "name" and not _NAME.fullmatch(str(value)):
            raise DataError(f"damaged entry: name {value!r}; expected letters, digits, - and _")
        values[field.name] = value
    return kind(**values)


def check_file(
    path: Path, *, num_bytes: int | None = None, sha256: str | None = None, remedy: str
) -> None:
    """Compare a file with its entry in a manifest.

    Args:
        path: the file, which must exist.
        num_bytes: expected size; None to skip.
        sha256: expected checksum; None to skip.
        remedy: what to do when the file is damaged, such as "import again".

    Raises:
        DataError: when it is missing, unreadable or differs.
    """
    try:
        if not path.is_file():
            raise DataError(f"{path} is missing; {remedy}")
        got_bytes = path.stat().st_size
        if num_bytes is not None and got_bytes != num_bytes:
            raise DataError(
                f"{path} is truncated or changed: got {got_bytes:,} bytes, "
                f"expected {num_bytes:,}; {remedy}"
            )
        got = None if sha256 is None else sha256_of(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; {remedy}") from error
    if got != sha256:
        raise DataError(
            f"{path} is damaged: its SHA-256 is {got}, the manifest says {sha256}; {remedy}"
        )
