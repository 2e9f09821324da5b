"""The folder of a Ray of our own: its path is short enough for the sockets that Ray makes in it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from cluster_jobs.errors import JobError

RAY = "ray"
"""The folder in it that Ray is given, and opens to everybody."""

_LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107  # bytes, a limit of the system
_LONGEST_NAME = "session_2000-12-31_23-59-59_999999_4194304/sockets/plasma_store"  # below RAY
_PREFIX = "clmle-"
_RANDOM = "12345678"  # what `mkdtemp` appends
_SHORT_PLACES = ("/tmp", "/var/tmp")


def private_folder() -> Path:
    """Make a folder that only this user can enter: in TMPDIR, or where that is too long in /tmp.

    Raises:
        JobError: there is no place with a path short enough.
    """
    wanted = tempfile.gettempdir()
    for place in (wanted, *_SHORT_PLACES):
        if is_short(place) and os.access(place, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    raise JobError(
        f"TMPDIR is {wanted}, which is too long for Ray: the names of its sockets would exceed "
        f"{_LONGEST_SOCKET} bytes. {' and '.join(_SHORT_PLACES)} cannot be written either; set "
        f"TMPDIR to a folder with a path of at most {longest_place()} bytes"
    )


def is_short(place: str) -> bool:
    """Whether Ray can make its sockets in a private folder in this place."""
    return len(os.fsencode(place)) <= longest_place()


def longest_place() -> int:
    """Bytes that the path of a place may have."""
    return _LONGEST_SOCKET - len(os.path.join("/", _PREFIX + _RANDOM, RAY, _LONGEST_NAME))
