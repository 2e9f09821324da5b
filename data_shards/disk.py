"""The disk as the cause of a failure: what could not be written, how much room there is.

A failed `write` names no file, whatever the reason; so who writes says what it writes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_shards.errors import DiskError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_DISKS = (*_FULL, errno.EIO, errno.EROFS, errno.ESTALE)


@contextmanager
def writing(path: Path | str, what: str = "") -> Iterator[None]:
    """Inside the block, errors of the disk say what was being written and what to do.

    Args:
        path: the file or folder that is written.
        what: what it is, such as "the snapshot"; "" where its name says it.

    Raises:
        DiskError: in place of an OSError that a disk causes: full, failing, read-only. Of nested
            blocks the outer one says it.
    """
    try:
        yield
    except DiskError as error:
        if isinstance(error.__cause__, OSError):
            raise write_error(error.__cause__, path, what) from error.__cause__
        raise  # of another process
    except OSError as error:
        if error.errno in _OF_DISKS:
            raise write_error(error, path, what) from error
        raise


def write_error(error: OSError, path: Path | str, what: str = "") -> DiskError:
    """The error that says what could not be written, why, and what to do; see `writing`."""
    reason, room = error.strerror or str(error), free_space(path)
    remedy = "make room there" if error.errno in _FULL else "make it writable again"
    return DiskError(
        f"cannot write {what}{' ' if what else ''}{path}: {reason} ({room}); {remedy}, then run "
        "the same command again"
    )


def free_space(path: Path | str) -> str:
    """How much room there is for a file, such as "3.0 MiB of 4.0 GiB free there"."""
    found = _statistics(Path(path))
    if found is None:
        return "its free space is not known"
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    text = f"{size_text(free)} of {size_text(total)} free there"
    return f"{text}, but no file more: its {found.f_files:,} are used" if _no_file(found) else text


def full_disk(path: Path | str, *, needed: int = 1) -> str:
    """`free_space` of a disk with fewer free bytes than needed; "" if there are as many."""
    found = _statistics(Path(path))
    if found is None or (found.f_bavail * found.f_frsize >= needed and not _no_file(found)):
        return ""
    return free_space(path)


def size_text(num_bytes: int) -> str:
    """Bytes in the largest unit of which there is at least one, such as "1.5 MiB"."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(len(units) - 1, max(0, num_bytes.bit_length() - 1) // 10)
    return f"{num_bytes / 1024**power:,.{min(power, 1)}f} {units[power]}"


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or it can be made itself; nothing is tried."""
    place = nearest(folder)
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def nearest(path: Path) -> Path:
    """The path, or the first above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if os.path.exists(place))


def _statistics(path: Path) -> os.statvfs_result | None:
    """Of the file system of a path, which need not exist yet; None where it does not answer."""
    try:
        return os.statvfs(nearest(path))
    except OSError:
        return None


def _no_file(found: os.statvfs_result) -> bool:
    """Whether there is no room for one more name; some file systems do not count them."""
    return found.f_files > 0 and found.f_favail == 0
