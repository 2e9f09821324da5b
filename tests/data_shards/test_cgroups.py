from __future__ import annotations

import os
from pathlib import Path

import pytest

from data_shards import cgroups

GIB = 2**30
NO_LIMIT = "9223372036854771712"  # what version 1 has for none

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 cores, 256 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * 2**20}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)


def system(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A file system with cgroups."""
    own = {"proc/self/cgroup": cgroup} | {f"sys/fs/cgroup/{k}": v for k, v in files.items()}
    for name, text in own.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


V1 = "9:name=systemd:/docker/abc\n4:memory:/docker/abc\n2:cpuacct,cpu:/docker/abc"


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        # Docker and Kubernetes with version 2: the container's own cgroup is the root that it sees.
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "max 100000"}, 64),
        ("0::/", {}, 64),
        # Parts of a core are rounded up.
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "1000 100000"}, 1),
        # A service of systemd, in a slice: the least one around it counts.
        (
            "0::/a.slice/b.service",
            {"a.slice/cpu.max": "300000 100000", "a.slice/b.service/cpu.max": "800000 100000"},
            3,
        ),
        # The quota of another one, and a path that lies outside.
        ("0::/mine", {"mine/cpu.max": "max 100000", "other/cpu.max": "100000 100000"}, 64),
        ("0::/../mine", {"cpu.max": "400000 100000"}, 4),
        # Version 1, seen from inside a container, and from outside.
        (V1, {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "50000"}, 5),
        (
            V1,
            {
                "cpu/docker/abc/cpu.cfs_quota_us": "200000",
                "cpu/docker/abc/cpu.cfs_period_us": "100000",
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        # Both versions at once; a quota above the affinity.
        (V1 + "\n0::/docker/abc", {"unified/docker/abc/cpu.max": "700000 100000"}, 7),
        ("0::/", {"cpu.max": "9000000 100000"}, 64),
    ],
)
def test_cores_are_those_of_the_least_quota(
    tmp_path: Path, cgroup: str, files: dict[str, str], cores: int
) -> None:
    assert cgroups.num_cores(system(tmp_path, cgroup, files)) == cores


@pytest.mark.parametrize(
    ("cgroup", "files", "gib"),
    [
        ("0::/", {"memory.max": str(4 * GIB)}, 4),
        ("0::/", {"memory.max": "max"}, 256),
        ("0::/a/b", {"a/memory.max": str(3 * GIB), "a/b/memory.max": str(5 * GIB)}, 3),
        (V1, {"memory/memory.limit_in_bytes": str(2 * GIB)}, 2),
        (V1, {"memory/memory.limit_in_bytes": NO_LIMIT}, 256),
        (V1, {"memory/docker/abc/memory.limit_in_bytes": str(6 * GIB)}, 6),
    ],
)
def test_memory_is_that_of_the_least_limit(
    tmp_path: Path, cgroup: str, files: dict[str, str], gib: int
) -> None:
    assert cgroups.memory_bytes(system(tmp_path, cgroup, files)) == gib * GIB


def test_another_system_has_no_cgroups(tmp_path: Path) -> None:
    assert cgroups.num_cores(tmp_path) == 64
    assert cgroups.memory_bytes(tmp_path) == 256 * GIB


def test_the_affinity_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    assert cgroups.num_cores(system(tmp_path, "0::/", {"cpu.max": "200000 100000"})) == 1


def test_this_machine_has_some() -> None:
    assert cgroups.num_cores() >= 1
    assert cgroups.memory_bytes() > 2**20
