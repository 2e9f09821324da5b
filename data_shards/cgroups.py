"""CPU cores and memory that this process may use: a container often has fewer than its machine.

Linux keeps the limits of a container as files of its control groups (cgroups), of version 1 or 2.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_VERSION_2 = ""  # what it has in the place of a controller
_UNLIMITED = ("max", "-1")


def num_cores(root: Path = _ROOT) -> int:
    """Cores that this process may use: by affinity, and by the quotas of its cgroups.

    Args:
        root: of the file system.

    Returns:
        At least 1; a quota that ends in a part of a core is rounded up.
    """
    return min([_cores_by_affinity(), *(math.ceil(quota) for quota in _cpu_quotas(root))])


def memory_bytes(root: Path = _ROOT) -> int:
    """Memory that this process may use: the machine's, or a smaller limit of its cgroups.

    Args:
        root: of the file system.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_memory_limits(root)])


def _cores_by_affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_quotas(root: Path) -> Iterator[float]:
    """In cores, of every cgroup of this process that has one."""
    limits = [_words(group / "cpu.max") for group in _groups(root, _VERSION_2)]
    for group in _groups(root, "cpu"):
        limits.append(_words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us"))
    for quota, *period in filter(None, limits):
        if quota not in _UNLIMITED and period:
            yield int(quota) / int(period[0])


def _memory_limits(root: Path) -> Iterator[int]:
    """In bytes, of every cgroup of this process that has one."""
    files = [group / "memory.max" for group in _groups(root, _VERSION_2)]
    files += [group / "memory.limit_in_bytes" for group in _groups(root, "memory")]
    for file in files:
        yield from (int(word) for word in _words(file) if word not in _UNLIMITED)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the cgroups that this process is in, from its own to the outermost."""
    folder = root / "sys/fs/cgroup"
    # Version 2 may lie beside the folders of version 1.
    mounts = (folder / controller,) if controller else (folder, folder / "unified")
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        own = PurePosixPath(path.lstrip("/"))
        if controller in controllers.split(","):
            yield from (mount / group for mount in mounts for group in _upwards(own))


def _upwards(own: PurePosixPath) -> Iterator[PurePosixPath]:
    """The path of a cgroup, then of those around it.

    Without a namespace of its own a container has its path outside of it, which is not there: what
    is mounted is the container's. A path with `..` lies outside.
    """
    return (group for group in (own, *own.parents) if ".." not in group.parts)


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _lines(file: Path) -> list[str]:
    """Nothing where the file is not there, as on other systems than Linux."""
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
