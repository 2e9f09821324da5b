"""A Ray whose disk is full: the message names it, not memory and load."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.execution.ray_calls import run_calls
from clustering.execution.ray_disk import lost_too_often
from tests.helpers.small_disk import fill, small_disk
from tests.helpers.small_ray import small_ray

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def disk() -> Iterator[Path]:
    """That of a Ray with the least object store; its path must be short."""
    with (
        small_disk(Path(f"/tmp/clmle-{os.getpid()}"), kib=8192) as mounted,
        small_ray(folder=mounted / "ray"),
    ):
        yield mounted


def zeros(mib: int) -> np.ndarray:
    return np.zeros(mib * 2**20, dtype=np.uint8)


def call_often() -> list[tuple[int, np.ndarray]]:
    """Each answer is a quarter of the object store."""
    config = ClusterConfig(max_retries=1)
    return list(run_calls(zeros, [20] * 5, num_at_once=2, config=config))


def test_a_disk_without_room_to_spill_is_named(disk: Path) -> None:
    fill(disk, left_kib=300)
    held = [ray.put(zeros(10)) for _ in range(6)]
    named = rf"object store is full.* that is {disk}/ray/session.*: [\d.]+ \w+ of 8.0 MiB free"
    with pytest.raises(ClusterError, match=rf"{named} there\. Make room there, or set TMPDIR"):
        call_often()
    assert len(held) == 6


def test_workers_that_a_full_disk_ends_are_explained_by_it(disk: Path) -> None:
    fill(disk)
    lost = rf"its worker was lost .* attempts; the disk of Ray's files, {disk}/ray/session"
    with pytest.raises(ClusterError, match=rf"{lost}.* is full \(.* free there\): make room there"):
        call_often()


def test_without_a_ray_the_disk_is_not_known() -> None:
    error = lost_too_often("a call: no result in 9 s", 3)
    assert str(error).startswith(
        "a call: no result in 9 s, in the last of 3 attempts; look at memory"
    )
