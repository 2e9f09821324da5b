"""Where the files of a Ray of our own lie. `test_local_ray` starts one in the longest place."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cluster_jobs.errors import JobError
from cluster_jobs.ray_cluster import private_folder


def place_of(length: int, monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """A TMPDIR whose path has so many bytes; a path of two bytes a letter counts them."""
    root = root.resolve()
    place = root / ("x" * (length - len(str(root)) - 1))
    place.mkdir()
    monkeypatch.setattr(private_folder.tempfile, "gettempdir", lambda: str(place))
    return place


@pytest.mark.parametrize("length", [80, 100, 130])
def test_a_long_tmpdir_gives_way_to_a_short_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, length: int
) -> None:
    place_of(length + len(str(tmp_path)), monkeypatch, tmp_path)
    folder = private_folder.private_folder()
    folder.rmdir()
    assert folder.parent == Path("/tmp")


@pytest.mark.parametrize("more", [0, 1])
def test_the_limit_is_that_of_the_sockets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: int
) -> None:
    monkeypatch.setattr(private_folder, "_LONGEST_SOCKET", 300)
    place = place_of(private_folder.longest_place() + more, monkeypatch, tmp_path)
    folder = private_folder.private_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()
    assert (folder.parent == place) == (more == 0)
    if not more:
        socket = folder / private_folder.RAY / private_folder._LONGEST_NAME
        assert len(os.fsencode(socket)) == 300


def test_a_path_is_as_long_as_its_bytes() -> None:
    assert private_folder.is_short("/" + "x" * 20)
    assert not private_folder.is_short("/" + "é" * 20)


def test_without_a_short_place_it_is_said_what_is_too_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = place_of(len(str(tmp_path)) + 100, monkeypatch, tmp_path)
    monkeypatch.setattr(private_folder, "_SHORT_PLACES", ("/nowhere", "/missing"))
    with pytest.raises(JobError) as caught:
        private_folder.private_folder()
    text = str(caught.value)
    assert f"TMPDIR is {place}, which is too long" in text
    assert "/nowhere and /missing cannot be written" in text
    assert f"at most {private_folder.longest_place()} bytes" in text
