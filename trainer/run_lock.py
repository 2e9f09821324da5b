"""Keep a second process out of a run's folder, and leave folders of others as they are."""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import ConfigError
from trainer.run_folder import RunFolder

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
LAUNCHER, SERVICE, TRAINER = "run.lock", "service.lock", "trainer.lock"
"""Files in a run's folder: of `clmle run`, of the clustering service, of the first rank."""


@contextmanager
def claimed_alone(
    run: RunFolder,
    lock_name: str,
    claim: Callable[[], None],
    *,
    busy: str,
    patience_seconds: float = 0.0,
) -> Iterator[None]:
    """Inside the block the folder is claimed, and no other process holds the lock.

    A process that died holds no lock. Who is refused has changed nothing: the claim writes the
    settings that another one at work goes by, so the lock comes first, and goes again from a folder
    that was refused.

    Args:
        run: whose folder; made when missing.
        lock_name: `LAUNCHER`, `SERVICE` or `TRAINER`.
        claim: writes the run's configuration, or refuses the folder.
        busy: what to say when the lock is held.
        patience_seconds: how long to wait for one that is about to end.

    Raises:
        ConfigError: the lock is held, the folder cannot be written, or the claim was refused.
    """
    path = run.path / lock_name
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        lock = path.open("w")
    except OSError as error:
        raise ConfigError(
            f"cannot write to the run folder {run.path} ({error.strerror}); "
            "set run.folder to a place that you can write to"
        ) from error
    with lock:
        _hold(lock.fileno(), path, busy, time.monotonic() + patience_seconds)
        try:
            claim()
        except BaseException:
            if is_new:
                path.unlink(missing_ok=True)
            raise
        yield


def _hold(lock: int, path: Path, busy: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise ConfigError(busy) from error
            time.sleep(_POLL_SECONDS)
        except OSError as error:  # a file system without locks
            logger.warning("cannot lock %s (%s): start no second one", path, error)
            return
        else:
            return
