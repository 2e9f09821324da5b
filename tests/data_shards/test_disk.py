from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from data_shards.atomic import atomic_file, atomic_folder, write_json
from data_shards.disk import free_space, full_disk, size_text, writing
from data_shards.errors import DiskError, exit_code_and_message


def fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, r"No space left on device .*; make room there, then run the same"),
        (errno.EDQUOT, r"quota exceeded .*; make room there, then run the same"),
        (errno.EIO, r"Input/output error .*; make it writable again, then run the same"),
    ],
)
def test_what_the_disk_does_names_file_room_and_remedy(
    tmp_path: Path, number: int, remedy: str
) -> None:
    file = tmp_path / "not-yet" / "a"
    with pytest.raises(DiskError, match=remedy) as caught, writing(file, "the answer"):
        fail(number)
    room = r"\(\d[\d.,]* \wi?B of \d[\d.,]* \wiB free there\)"
    assert caught.match(f"^cannot write the answer {file}: .*{room}")
    assert exit_code_and_message(caught.value) == (1, f"error: {caught.value}")


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), writing(tmp_path):
        fail(errno.EACCES)


@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
def test_the_name_is_the_final_one_and_nothing_is_left(tmp_path: Path, make: object) -> None:
    with (
        pytest.raises(DiskError, match=f"cannot write the answer {tmp_path / 'made'}: No space"),
        make(tmp_path / "made", "the answer"),  # type: ignore[operator]
    ):
        fail(errno.ENOSPC)
    assert not os.listdir(tmp_path)


def test_of_nested_blocks_the_outer_one_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "write_text", lambda *args, **kwargs: fail(errno.ENOSPC))
    with (
        pytest.raises(DiskError, match=f"cannot write the table {tmp_path / 'made'}: No space"),
        atomic_folder(tmp_path / "made", "the table") as folder,
    ):
        write_json(folder / "stats.json", {})


def test_a_message_of_another_process_stays() -> None:
    with pytest.raises(DiskError, match="said there"), writing("here"):
        raise DiskError("said there")


def test_room_is_told_for_what_is_not_there_yet(tmp_path: Path) -> None:
    assert free_space(tmp_path / "a" / "b") == free_space(tmp_path)
    assert not full_disk(tmp_path)


def test_a_disk_without_room_for_names_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)

    class Found:
        f_bavail, f_frsize, f_blocks, f_files, f_favail = 2**20, real.f_frsize, 2**21, 65536, 0

    monkeypatch.setattr(os, "statvfs", lambda path: Found)
    assert full_disk(tmp_path).endswith("free there, but no file more: its 65,536 are used")


def test_sizes_have_the_largest_unit_of_which_there_is_one() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 3 * 2**19, 5000 * 2**40)] == [
        *("0 B", "1,023 B", "1.0 KiB", "1.5 MiB", "5,000.0 TiB"),
    ]
