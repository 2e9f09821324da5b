from __future__ import annotations

import errno
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from data_shards.atomic import sha256_of
from data_shards.errors import DataError
from data_shards.shards.record import check_file, record_from_json


@dataclass(frozen=True)
class Part:
    name: str
    size: int


def test_a_record_comes_back_from_its_json() -> None:
    part = Part("a-1", 3)
    assert record_from_json(Part, {**asdict(part), "more": 1}) == part


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {"name": "a"},
        {"name": "a", "size": "3"},
        {"name": "a", "size": True},
        {"name": "../a", "size": 3},
        {"name": "", "size": 3},
    ],
)
def test_a_damaged_entry_is_refused(entry: Any) -> None:
    with pytest.raises(DataError, match="damaged entry"):
        record_from_json(Part, entry)


def test_a_file_is_compared_with_size_and_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    check_file(path, remedy="do it again")
    check_file(path, num_bytes=3, sha256=sha256_of(path), remedy="do it again")
    with pytest.raises(DataError, match="got 3 bytes, expected 4; do it again"):
        check_file(path, num_bytes=4, remedy="do it again")
    with pytest.raises(DataError, match="a is damaged.*do it again"):
        check_file(path, num_bytes=3, sha256="0" * 64, remedy="do it again")
    with pytest.raises(DataError, match="b is missing; do it again"):
        check_file(tmp_path / "b", remedy="do it again")


@pytest.mark.parametrize("looked_at", ["is_file", "stat"])
def test_a_file_that_cannot_be_looked_at_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at: str
) -> None:
    def stale(path: Path, **_: Any) -> Any:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    (tmp_path / "a").write_bytes(b"abc")
    monkeypatch.setattr(Path, looked_at, stale)
    with pytest.raises(DataError, match="cannot read .*/a: Stale file handle; do it again"):
        check_file(tmp_path / "a", remedy="do it again")
