"""A disk of a few MiB, to be really filled (Linux, as root)."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_CLONE_NEWNS = 0x20000
_FILLER = "filler"


@contextmanager
def small_disk(folder: Path, *, kib: int = 1024) -> Iterator[Path]:
    """Inside the block the folder is a disk of its own.

    This thread, and what it starts meanwhile, sees it; all others see the folder below.

    Args:
        folder: made here.
        kib: size in KiB.
    """
    if not sys.platform.startswith("linux") or os.geteuid():
        pytest.skip("needs root on Linux to mount a small disk")
    folder.mkdir()
    private = ["mount", "--make-rprivate", "/"]
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    if ctypes.CDLL(None).unshare(_CLONE_NEWNS) or any(map(subprocess.call, (private, mount))):
        pytest.skip("this container may not mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def fill(disk: Path, *, left_kib: int = 0) -> None:
    """Fill a disk but for so much."""
    with (disk / _FILLER).open("ab", buffering=0) as file:
        with suppress(OSError):
            while file.write(b"\0" * 4096):
                pass
        file.truncate(max(0, file.tell() - 1024 * left_kib))


def make_room(disk: Path) -> None:
    """Take back `fill`."""
    (disk / _FILLER).unlink()


def content(disk: Path) -> set[str]:
    """Names of all files and folders but the one of `fill`."""
    return {str(path.relative_to(disk)) for path in disk.rglob("*")} - {_FILLER}
