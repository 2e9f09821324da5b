from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_shards import atomic
from data_shards.atomic import (
    atomic_file,
    atomic_folder,
    clear_leftovers,
    read_json,
    remove_folder,
    sha256_of,
    write_in_parts,
    write_json,
)
from data_shards.errors import DataError


def test_a_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with atomic_file(path) as temporary:
        np.save(temporary, np.arange(3))
        assert temporary.name.startswith(".tmp-")
        assert not path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy"]
    assert np.load(path).tolist() == [0, 1, 2]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "made") as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a").write_text("1")
        assert not (tmp_path / "made").exists()
    assert (tmp_path / "made" / "sub" / "a").read_text() == "1"
    assert os.listdir(tmp_path) == ["made"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "made") as temporary:
            (temporary / text).write_text(text)
    assert os.listdir(tmp_path) == ["made"]
    assert os.listdir(tmp_path / "made") == ["new"]


def test_a_failed_replacement_keeps_the_old_folder(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "made") as temporary:
        (temporary / "old").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "made"):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["made"]
    assert os.listdir(tmp_path / "made") == ["old"]


def test_an_old_folder_that_cannot_be_removed_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may keep its files as long as somebody reads them."""
    monkeypatch.setattr(shutil, "rmtree", _busy)
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "made") as temporary:
            (temporary / text).write_text(text)
    assert os.listdir(tmp_path / "made") == ["new"]
    clear_leftovers(tmp_path)
    (left,) = set(os.listdir(tmp_path)) - {"made"}
    assert left.startswith(".tmp-"), "counts for nothing"
    monkeypatch.undo()
    clear_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["made"]


def _busy(path: Path, ignore_errors: bool = False) -> None:
    if not ignore_errors:
        raise OSError(errno.EBUSY, "Device or resource busy", str(path))


def test_leftovers_are_cleared_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".tmp-1-file").write_text("half")
    (tmp_path / ".tmp-1-folder").mkdir()
    (tmp_path / ".tmp-1-folder" / "a").write_text("half")
    (tmp_path / "kept").write_text("whole")
    clear_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["kept"]


@pytest.mark.parametrize(("size", "parts"), [(0, 0), (1, 1), (10, 1), (11, 2), (25, 3)])
def test_a_large_file_is_written_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, parts: int
) -> None:
    monkeypatch.setattr(atomic, "_PART_BYTES", 10)
    content, done = bytes(range(size)), []
    write_in_parts(tmp_path / "a", content, lambda: done.append((tmp_path / "a").stat().st_size))
    assert (tmp_path / "a").read_bytes() == content
    assert done == [min(10 * (part + 1), size) for part in range(parts)]


def test_json_comes_back_and_equal_objects_make_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2], "a": "é"})
    write_json(tmp_path / "b.json", {"a": "é", "b": [1, 2]})
    assert read_json(tmp_path / "a.json") == {"a": "é", "b": [1, 2]}
    assert sha256_of(tmp_path / "a.json") == sha256_of(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_text().endswith("\n")


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[1]", b"\xff\xfe"])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json is damaged"):
        read_json(path)


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*a\.json: No such file"):
        read_json(tmp_path / "a.json")


def test_a_folder_is_removed_by_its_marker_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle, it leaves nothing that counts."""
    folder = tmp_path / "made"
    folder.mkdir()
    for name in ("weights", "manifest.json"):
        (folder / name).write_text(name)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", _busy)
        remove_folder(folder, "manifest.json")
    assert os.listdir(folder) == ["weights"]
    remove_folder(folder, "manifest.json")
    assert not folder.exists()
