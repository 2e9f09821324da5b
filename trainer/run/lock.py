"""Keep a second process out of a run's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from data_shards.errors import ConfigError
from data_shards.folder_lock import FolderLock
from trainer.run.folder import RunFolder

LAUNCHER, SERVICE, TRAINER = "run.lock", "service.lock", "trainer.lock"
"""Lock files in a run's folder: of `clmle run`, of the clustering service, of rank 0."""
LOCKS = (LAUNCHER, SERVICE, TRAINER)
"""All of them."""


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

    A process that died holds no lock. If the claim is refused, the folder is left unchanged.

    Args:
        run: the folder; created if missing.
        lock_name: `LAUNCHER`, `SERVICE` or `TRAINER`.
        claim: writes the run's configuration, or raises ConfigError.
        busy: error message if the lock is held.
        patience_seconds: how long to wait for a process that is about to exit.

    Raises:
        ConfigError: the lock is held, the folder cannot be written, or from the claim.
    """
    try:
        lock = FolderLock(run.path / lock_name)
    except OSError as error:
        raise ConfigError(
            f"cannot write to the run folder {run.path} ({error.strerror}); "
            "set run.folder to a place that you can write to"
        ) from error
    with lock.claimed(claim, busy=ConfigError(busy), patience_seconds=patience_seconds):
        yield
