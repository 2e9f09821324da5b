"""Files and folders that appear complete or not at all.

Everything is written under a name that starts with `.tmp-`, flushed to the disk, then renamed.
A killed writer leaves at most such a temporary name behind, which readers ignore. A full or failing
disk is a DiskError that says what was being written.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data_shards.disk import writing
from data_shards.errors import DataError
from data_shards.progress import OnStep
from data_shards.replacing import clear_unfinished, drop_replacement, put_in_place

TEMPORARY_PREFIX = ".tmp-"
_PART_BYTES = 64 * 2**20


@contextmanager
def atomic_file(path: Path | str, what: str = "", *, flush_name: bool = True) -> Iterator[Path]:
    """Write a file that appears complete or not at all; replaces an older one.

    Args:
        path: the file to make; its folder must exist.
        what: what it is, as for `writing`.
        flush_name: False when another file follows in the folder, whose flush covers all names.

    Yields:
        A path in the same folder and with the same suffix to write to. It is flushed to the disk
        and renamed when the block ends, removed when the block raises.

    Raises:
        DiskError: the disk is full, fails, or cannot be written.
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        with writing(path, what):
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
            if flush_name:
                _flush(path.parent)
    except BaseException:
        with suppress(OSError):  # it must not hide why
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path | str, what: str = "") -> Iterator[Path]:
    """Write a folder that appears complete or not at all; replaces an older one.

    Args:
        path: the folder to make; its parent must exist.
        what: what it is, as for `writing`.

    Yields:
        An empty folder next to `path`, to be filled. It is flushed and renamed when the block ends,
        removed when the block raises.

    Raises:
        DiskError: the disk is full, fails, or cannot be written.
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        with writing(path, what):
            temporary.mkdir()
            yield temporary
            flush_tree(temporary)
            put_in_place(temporary, path)
            _flush(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def clear_leftovers(folder: Path | str) -> None:
    """Remove what killed writers left directly in `folder`; no writer may be active there.

    A replacement that was under way is finished or taken back. What cannot be removed stays until
    the next call: some network file systems keep a file as long as it is open somewhere.
    """
    clear_unfinished(Path(folder))
    for leftover in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink()


def remove_folder(folder: Path, marker: str) -> None:
    """Remove a folder that counts only with a certain file, such as its manifest.

    That file goes first: a killed process leaves nothing that counts. What cannot be removed now
    (some network file systems keep a file while it is being read) is for the next call.
    """
    drop_replacement(folder)  # or a reader would put it in place
    (folder / marker).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def flush_tree(folder: Path) -> None:
    """Flush a folder and everything in it to the disk."""
    for parent, _, files in os.walk(folder):
        for name in files:
            _flush(Path(parent, name))
        _flush(Path(parent))


def sha256_of(path: Path | str) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_in_parts(path: Path, content: bytes, on_step: OnStep) -> None:
    """Write a large file, not atomically, and flush each part: so a slow disk is seen to be alive.

    Args:
        path: the file.
        content: of the file.
        on_step: called when another part is on the disk.
    """
    with path.open("wb") as file:
        for start in range(0, len(content), _PART_BYTES):
            file.write(memoryview(content)[start : start + _PART_BYTES])
            file.flush()
            os.fsync(file.fileno())
            on_step()


def write_json(path: Path | str, obj: Any, what: str = "") -> None:
    """Write `obj` as JSON by `atomic_file`; equal objects give equal bytes."""
    with atomic_file(path, what) as temporary:
        temporary.write_text(json.dumps(obj, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        DataError: when the file is missing, unreadable, not JSON, or not a JSON object.
    """
    try:
        obj = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; make it readable, or create it again"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{path} is damaged: it is not valid JSON ({error}); create it again"
        ) from error
    if not isinstance(obj, dict):
        raise DataError(
            f"{path} is damaged: expected a JSON object, got a {type(obj).__name__}; "
            "create it again"
        )
    return obj


def _temporary_name(path: Path) -> Path:
    # The suffix stays at the end: numpy.save would add its own to a name without it.
    return path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


def _flush(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
