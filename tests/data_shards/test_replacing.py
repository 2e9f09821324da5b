from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from data_shards import atomic, replacing
from data_shards.atomic import atomic_folder, clear_leftovers, remove_folder
from data_shards.replacing import finish_replacement, finish_replacements, read_whole

FILES = ("first", "second")
OLD, NEW = "old", "new"


def write(path: Path, text: str) -> None:
    """A folder of two files that belong together."""
    with atomic_folder(path) as folder:
        for name in FILES:
            (folder / name).write_text(text)


def read(path: Path) -> str:
    """What a folder holds; fails if its files do not belong together."""
    found = [(path / name).read_text() for name in FILES]
    assert len(set(found)) == 1, found
    return found[0]


@pytest.fixture(params=["exchanged", "in steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Both ways of replacing a folder."""
    if request.param == "in steps":
        monkeypatch.setattr(replacing, "_exchange", lambda first, second: False)
    elif not can_exchange(tmp_path):
        pytest.skip("this file system cannot exchange names")
    return str(request.param)


def can_exchange(folder: Path) -> bool:
    names = [folder / "a", folder / "b"]
    for name in names:
        name.mkdir()
    done = replacing._exchange(*names)
    for name in names:
        name.rmdir()
    return done


def is_killed_at(step: int, work: Callable[[], None]) -> bool:
    """Do it in a process that is killed before this one of its calls that change the disk."""
    child = os.fork()
    if child == 0:
        try:
            _count_down(step)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _count_down(step: int) -> None:
    """Python tells of every call, but of none by ctypes."""
    left, exchange = step, replacing._exchange

    def on_event(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    def audited(first: Path, second: Path) -> bool:
        sys.audit("os.rename")
        return exchange(first, second)

    replacing._exchange = audited
    sys.addaudithook(on_event)


def test_whenever_the_writer_is_killed_the_old_or_the_new_is_there(
    way: str, tmp_path: Path
) -> None:
    """For the reader at once, for the next writer, and after its clean-up."""
    seen = []
    for step in range(1, 100):
        path = tmp_path / f"{step}" / "made"
        path.parent.mkdir()
        write(path, OLD)
        if not is_killed_at(step, lambda path=path: write(path, NEW)):
            break
        seen.append(read_whole(path, lambda path=path: read(path)))
        clear_leftovers(path.parent)
        assert os.listdir(path.parent) == ["made"]
        assert read(path) == seen[-1]
        write(path, "newer")
        assert read(path) == "newer"
    assert step > 10
    assert seen == sorted(seen, reverse=True), "once the new one is there, it stays"
    assert set(seen) == {OLD, NEW}


def test_a_cleaner_without_a_reader_before_it_keeps_one(way: str, tmp_path: Path) -> None:
    for step in range(1, 100):
        path = tmp_path / f"{step}" / "made"
        path.parent.mkdir()
        write(path, OLD)
        if not is_killed_at(step, lambda path=path: write(path, NEW)):
            break
        clear_leftovers(path.parent)
        assert os.listdir(path.parent) == ["made"]
        assert read(path) in (OLD, NEW)
    assert step > 10


def test_a_reader_never_sees_a_gap(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_flush", lambda path: None)
    path = tmp_path / "made"
    write(path, "0")
    ended = threading.Event()

    def replace_often() -> None:
        for number in range(1, 1001):
            write(path, str(number))
        ended.set()

    writer = threading.Thread(target=replace_often)
    writer.start()
    last, times = 0, 0
    while not ended.is_set():
        number = int(read_whole(path, lambda: read(path)))
        assert number >= last
        last, times = number, times + 1
        if way == "exchanged":
            assert path.is_dir()
    writer.join()
    assert read(path) == "1000"
    assert times > 50


def test_what_is_missing_or_broken_is_not_read_for_ever(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_whole(tmp_path / "made", lambda: read(tmp_path / "made"))
    write(tmp_path / "made", OLD)
    (tmp_path / "made" / FILES[0]).write_text(NEW)
    with pytest.raises(AssertionError):
        read_whole(tmp_path / "made", lambda: read(tmp_path / "made"))


@pytest.fixture
def in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An old folder where names cannot be exchanged."""
    path = tmp_path / "made"
    write(path, OLD)
    monkeypatch.setattr(replacing, "_exchange", lambda first, second: False)
    return path


def test_a_reader_may_be_faster_than_the_writer(
    in_steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_steps
    rename = os.rename

    def watched(source: Path, target: Path) -> None:
        rename(source, target)
        if source == path:
            assert not path.exists()
            finish_replacements(tmp_path)
            assert read(path) == NEW

    monkeypatch.setattr(os, "rename", watched)
    write(path, NEW)
    assert os.listdir(tmp_path) == ["made"]
    assert read(path) == NEW


def test_the_old_folder_may_be_removed_meanwhile(
    in_steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_steps
    rename = os.rename

    def watched(source: Path, target: Path) -> None:
        if source == path:
            shutil.rmtree(path)
        rename(source, target)

    monkeypatch.setattr(os, "rename", watched)
    write(path, NEW)
    assert os.listdir(tmp_path) == ["made"]
    assert read(path) == NEW


@pytest.mark.parametrize("failing", [2, 3])
def test_the_old_folder_comes_back_when_the_new_one_cannot_be_renamed(
    in_steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    path = in_steps
    rename, calls = os.rename, []

    def fails_once(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == failing:
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_once)
    with pytest.raises(OSError, match="no"):
        write(path, NEW)
    assert os.listdir(tmp_path) == ["made"]
    assert read(path) == OLD


def test_finishing_what_was_not_begun_changes_nothing(tmp_path: Path) -> None:
    finish_replacement(tmp_path / "made")
    assert not os.listdir(tmp_path)


def test_what_is_removed_does_not_come_back(tmp_path: Path) -> None:
    """Its writer was killed while the new folder waited beside the old one."""
    path = tmp_path / "made"
    for name in ("made", ".new-made"):
        write(tmp_path / name, OLD)
    remove_folder(path, FILES[0])
    finish_replacements(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_name_that_becomes_free_after_the_first_look_is_read_again(tmp_path: Path) -> None:
    """The writer pauses between its two renames for as long as the reader looks."""
    path, calls = tmp_path / "made", []
    write(tmp_path / "next", NEW)

    def reading() -> str:
        calls.append(path.exists())
        if len(calls) == 1:
            os.rename(tmp_path / "next", tmp_path / ".new-made")
        return read(path)

    assert read_whole(path, reading) == NEW
    assert calls == [False, True]
