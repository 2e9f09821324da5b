"""Names of files and classes as text, whatever bytes they are made of.

Python reads a byte of a file's name that is no text in this locale as a surrogate, which no
encoding writes. In the names of what is imported there are none (`readable`); on the screen and in
logs they are escaped (`write_any_name`), as in JSON and YAML, which do it by themselves.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TextIO

ANY_NAME = "utf-8:backslashreplace"
"""PYTHONIOENCODING of started processes, whose output goes to logs in UTF-8."""
FILE_ERRORS = "surrogateescape"
"""`errors` of a file in UTF-8 that holds names of files: each has the bytes that it has there."""


def write_any_name() -> None:
    """Escape what a standard stream cannot write, where it would raise; every command begins so."""
    for stream in (sys.stdout, sys.stderr):
        _reconfigure(stream, errors="backslashreplace")


def write_file_to_stdout() -> None:
    """Standard output is a file from here on: in UTF-8, a name of a file with the bytes it has."""
    _reconfigure(sys.stdout, encoding="utf-8", errors=FILE_ERRORS)


def _reconfigure(stream: TextIO, *, errors: str, encoding: str | None = None) -> None:
    if isinstance(stream, io.TextIOWrapper):  # a notebook's is not
        stream.reconfigure(encoding=encoding, errors=errors)


def is_utf8(name: str) -> bool:
    """Whether a file of this name has it in UTF-8 on the disk, whatever the locale."""
    try:
        return os.fsencode(name) == name.encode("utf-8")
    except UnicodeEncodeError:
        return False


def readable(name: str) -> str:
    r"""A file's name as text that can be written anywhere, the same in every locale if it is UTF-8.

    Args:
        name: as the operating system gives it.

    Returns:
        The bytes of the name as UTF-8. If they are not: as this locale reads them, and bytes that
        it cannot read as \xe9.
    """
    if name.isascii():
        return name
    try:
        return os.fsencode(name).decode("utf-8")
    except UnicodeError:  # no UTF-8, or text that never was the name of a file here
        return without_surrogates(name)


def without_surrogates(name: str) -> str:
    r"""A name with \xe9 in place of a byte that was no text where the name was read."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def in_utf8(file: Path) -> str:
    """A file's name to be written with `FILE_ERRORS`: with the bytes that it has, in any locale."""
    return os.fsencode(file).decode("utf-8", FILE_ERRORS)
