"""A folder takes the place of another: whenever the writer is killed, one of the two is there.

Where the file system can exchange two names (Linux, but not over NFS), that is a single step.
Elsewhere the new folder first waits as `.new-NAME`: should the writer die while the name is free,
the next reader or writer puts it in its place.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

_WAITING_PREFIX = ".new-"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux

T = TypeVar("T")


def put_in_place(new: Path, path: Path) -> None:
    """Rename a complete folder, and remove the one that had its name.

    Args:
        new: the folder; an older one is left under this name if it cannot be removed.
        path: its name from now on, in the same folder.
    """
    finish_replacement(path)
    if not path.exists():
        os.rename(new, path)
        return
    if not _exchange(new, path):
        _replace_in_steps(new, path)
    # The new one is in place: an old one that cannot be removed does no harm.
    shutil.rmtree(new, ignore_errors=True)


def finish_replacement(path: Path) -> None:
    """Put the new folder in place if its writer died before that; any reader may call this."""
    if not path.exists():
        with suppress(OSError):  # it was no replacement, or another process is faster
            os.rename(_waiting(path), path)


def finish_replacements(folder: Path) -> None:
    """`finish_replacement` of everything in a folder."""
    for waiting in folder.glob(f"{_WAITING_PREFIX}*"):
        finish_replacement(folder / waiting.name.removeprefix(_WAITING_PREFIX))


def drop_replacement(path: Path) -> None:
    """Remove the new folder that waits for a name, if there is one: nothing is to have the name."""
    shutil.rmtree(_waiting(path), ignore_errors=True)


def clear_unfinished(folder: Path) -> None:
    """Finish the replacements in a folder, or take them back; no writer may be active there."""
    finish_replacements(folder)
    for waiting in folder.glob(f"{_WAITING_PREFIX}*"):  # where the old one is still in place
        shutil.rmtree(waiting, ignore_errors=True)


def read_whole(path: Path, read: Callable[[], T]) -> T:
    """Read a folder that may be replaced meanwhile: all of the old one, or all of the new.

    Args:
        path: the folder.
        read: reads it; raises if its files do not belong together.

    Returns:
        What `read` returns. It is called again if it failed and the folder has changed since.
    """
    while True:
        finish_replacement(path)
        before = _identity(path)
        try:
            return read()
        except Exception:
            finish_replacement(path)  # the name may have become free after the first look
            if _identity(path) == before:
                raise


def _replace_in_steps(new: Path, path: Path) -> None:
    """As `_exchange`; for a moment, the name is free."""
    waiting = _waiting(path)
    shutil.rmtree(waiting, ignore_errors=True)
    os.rename(new, waiting)
    try:
        with suppress(FileNotFoundError):  # it was removed meanwhile
            os.rename(path, new)
        with suppress(FileNotFoundError):  # a reader was faster
            os.rename(waiting, path)
    except BaseException:
        if not path.exists():
            os.rename(new, path)
        shutil.rmtree(waiting, ignore_errors=True)
        raise


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; False where that is not possible."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    ours, theirs = os.fsencode(first), os.fsencode(second)
    return bool(rename(_AT_FDCWD, ours, _AT_FDCWD, theirs, ctypes.c_uint(_RENAME_EXCHANGE)) == 0)


def _waiting(path: Path) -> Path:
    return path.with_name(f"{_WAITING_PREFIX}{path.name}")


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What changes when a folder is replaced; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns
