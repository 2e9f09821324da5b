"""Keep a second process out of a folder."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.2
_logger = logging.getLogger(__name__)


class FolderLock:
    """A lock file in a folder, held by one process at a time; a process that died releases it."""

    def __init__(self, path: Path) -> None:
        """Open the file; it and its folder are created if missing.

        Raises:
            OSError: the folder cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._is_new = not path.exists()
        self._file = path.open("wb")

    @contextmanager
    def claimed(
        self, claim: Callable[[], None], *, busy: Exception, patience_seconds: float = 0.0
    ) -> Iterator[None]:
        """Hold the lock inside the block, after claiming the folder; can be entered once.

        The claim writes files that another active process relies on, so the lock is taken first. A
        refused claim leaves the folder unchanged: a lock file that this call created is removed.

        Args:
            claim: takes possession of the folder, or raises to refuse it.
            busy: what to raise when another process holds the lock.
            patience_seconds: how long to wait for a process that is about to end.
        """
        with self._file:
            if not self._is_taken(time.monotonic() + patience_seconds):
                raise busy
            try:
                claim()
            except BaseException:
                if self._is_new:
                    self._path.unlink(missing_ok=True)
                raise
            yield

    def _is_taken(self, deadline: float) -> bool:
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(_POLL_SECONDS)
            except OSError as error:  # a file system without locks
                _logger.warning(
                    "cannot lock %s (%s): start no second process there", self._path, error
                )
                return True
            else:
                return True


def is_held(path: Path) -> bool:
    """Whether a process holds a lock file; one that cannot be asked counts as held."""
    try:
        with path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # BlockingIOError: held; others: no access, or no locks on this file system
        return True
    return False
