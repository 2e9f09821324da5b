from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from data_shards.folder_lock import FolderLock, fcntl

BUSY = ValueError("somebody is at work")


def held(path: Path, claim=lambda: None, **options):
    return FolderLock(path).claimed(claim, busy=BUSY, **options)


def refuse() -> None:
    raise RuntimeError("not mine")


def test_one_holds_the_lock_and_lets_it_go(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.lock"
    claims: list[str] = []
    with held(path, lambda: claims.append("first")):
        with pytest.raises(ValueError, match="at work"), held(path, lambda: claims.append("no")):
            raise AssertionError
        assert path.exists(), "who is refused leaves the lock of the other"
    with held(path, lambda: claims.append("second")):
        pass
    assert claims == ["first", "second"]


def test_a_process_that_died_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    ready, say = os.pipe()
    child = os.fork()
    if child == 0:
        with held(path):
            os.write(say, b"!")
            time.sleep(60)
        os._exit(0)
    try:
        assert os.read(ready, 1) == b"!"
        with pytest.raises(ValueError, match="at work"), held(path):
            raise AssertionError
    finally:
        os.kill(child, 9)
    # The file is closed while the process ends, perhaps a moment after the signal.
    with held(path, patience_seconds=10):
        pass
    os.waitpid(child, 0)
    os.close(ready)
    os.close(say)


def test_patience_waits_for_one_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = held(tmp_path / "a.lock")
    first.__enter__()
    monkeypatch.setattr(time, "sleep", lambda seconds: first.__exit__(None, None, None))
    with held(tmp_path / "a.lock", patience_seconds=5):
        pass


@pytest.mark.parametrize("was_there", [False, True])
def test_a_refused_folder_stays_as_it_was(tmp_path: Path, was_there: bool) -> None:
    path = tmp_path / "a.lock"
    if was_there:
        path.touch()
    with pytest.raises(RuntimeError, match="not mine"), held(path, refuse):
        raise AssertionError
    assert path.exists() == was_there


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with caplog.at_level(logging.WARNING), held(tmp_path / "a.lock"):
        pass
    assert "cannot lock" in caplog.text
    assert "start no second process" in caplog.text


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        FolderLock(tmp_path / "file" / "a.lock")
