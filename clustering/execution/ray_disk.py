"""The disk of Ray's own files and of the objects that it spills, as the cause of a failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clustering.errors import ClusterError
from data_shards.disk import free_space, full_disk

# With less, Ray's workers may end while they start, without a word of the disk.
_LEAST_BYTES = 16 * 2**20


@contextmanager
def spilling() -> Iterator[None]:
    """Inside the block, Ray's error of a disk that is too full to spill to says what to do.

    Raises:
        ClusterError: there is no room for an object, in memory or on the disk.
    """
    import ray

    try:
        yield
    except ray.exceptions.OutOfDiskError as error:
        folder = session_folder()
        here = f"; on this machine that is {folder}: {free_space(folder)}" if folder else ""
        raise ClusterError(
            "Ray's object store is full, and it spills to no disk that has less than 5 % free"
            f"{here}. Make room there, or set TMPDIR to a place with more and start Ray again; "
            "then run the same command again"
        ) from error


def lost_too_often(what: str, attempts: int) -> ClusterError:
    """The error about calls that are lost or late again and again.

    Args:
        what: which call, and how it ended the last time.
        attempts: how often it was made.
    """
    return ClusterError(f"{what}, in the last of {attempts} attempts; {_remedy()}")


def _remedy() -> str:
    folder = session_folder()
    if folder is not None and (room := full_disk(folder, needed=_LEAST_BYTES)):
        return (
            f"the disk of Ray's files, {folder}, is full ({room}): make room there, or set TMPDIR "
            "to a place with more and start Ray again"
        )
    return (
        "look at memory and load of the Ray nodes, or raise cluster.call_timeout_seconds or "
        "cluster.max_retries"
    )


def session_folder() -> Path | None:
    """Where the Ray of this process keeps its files on this machine; None if that is not known."""
    from ray._private import worker

    node = getattr(worker, "_global_node", None)
    return None if node is None else Path(node.get_session_dir_path())
