from __future__ import annotations

import io
import logging
import os
import tarfile
from pathlib import Path

import pytest

from data_shards.sources import image_folder, lfw
from data_shards.sources.files import files_of, visible_files
from tests.helpers.image_shards import png, write_image_folder


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in visible_files(folder)]


def member(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


def test_the_order_is_files_before_folders_each_by_name(tmp_path: Path) -> None:
    for name in ("b/d/x", "b/a", "a/z", "c", "a.x", ".hidden", ".git/config"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names(tmp_path) == ["a.x", "c", "a/z", "b/a", "b/d/x"]
    assert sorted(files_of(tmp_path)) == sorted([*names(tmp_path), ".hidden", ".git/config"])


def test_linked_people_and_faces_are_found(tmp_path: Path) -> None:
    for person in ("Ann", "Bo"):
        (tmp_path / "store" / person).mkdir(parents=True)
        (tmp_path / "store" / person / f"{person}_0001.jpg").write_bytes(png(1))
    root = tmp_path / "lfw"
    (root / "Cy").mkdir(parents=True)
    (root / "Cy" / "Cy_0001.jpg").symlink_to(tmp_path / "store" / "Bo" / "Bo_0001.jpg")
    for person in ("Ann", "Bo"):
        (root / person).symlink_to(tmp_path / "store" / person)
    found = lfw.read(root).splits["train"]
    assert [item.name for item in found] == [f"{p}/{p}_0001.jpg" for p in ("Ann", "Bo", "Cy")]
    assert all(item.load() == png(1) for item in found)


def test_folders_linked_into_a_class_are_walked(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "more", {"ann": 2})
    root = write_image_folder(tmp_path / "faces", {"ann": 1, "bo": 1})
    (root / "ann" / "more").symlink_to(tmp_path / "more" / "ann")
    found = [item.name for item in image_folder.read(root).splits["train"]]
    assert found == ["ann/000.png", "ann/more/000.png", "ann/more/001.png", "bo/000.png"]


def test_what_cannot_be_read_to_an_end_is_said_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "a.png").touch()
    assert names(tmp_path) == ["a.png", "broken.png"]
    (message,) = caplog.messages
    assert message.endswith("pipes, sockets and devices are skipped: device.png, pipe.png")


def test_a_link_back_is_said_and_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_image_folder(tmp_path, {"ann": 1, "bo": 1})
    (tmp_path / "ann" / "all").symlink_to(tmp_path)
    (tmp_path / "bo" / "ann").symlink_to(tmp_path / "ann")  # no way back: it is there twice
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path) == ["ann/000.png", "bo/000.png", "bo/ann/000.png"]
    assert f"{tmp_path}/ann/all leads back to a folder that contains it" in caplog.text
    assert f"{tmp_path}/bo/ann/all leads back" in caplog.text


def test_a_link_that_leads_nowhere_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "itself.png").symlink_to("itself.png")
    assert names(tmp_path) == ["gone.png", "itself.png"]
    with pytest.raises(FileNotFoundError):
        files_of(tmp_path)["gone.png"].load()


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image_folder(tmp_path, {"ann": 1, "bo": 1})
    scandir = os.scandir

    def refused(path: Path) -> os.ScandirIterator[str]:  # type: ignore[name-defined]
        if path == tmp_path / "bo":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(PermissionError, match="/bo"):
        files_of(tmp_path)


def test_hard_links_of_a_tar_are_files_and_other_links_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "faces.tgz"
    first = member("lfw/Ann/Ann_0001.jpg")
    first.size = len(png(1))
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(member("lfw", tarfile.DIRTYPE))
        tar.addfile(first, io.BytesIO(png(1)))
        tar.addfile(member("lfw/Bo/Bo_0001.jpg", tarfile.LNKTYPE, first.name))
        tar.addfile(member("lfw/Cy/Cy_0001.jpg", tarfile.LNKTYPE, "lfw/Bo/Bo_0001.jpg"))
        tar.addfile(member("lfw/Di/Di_0001.jpg", tarfile.LNKTYPE, "/etc/passwd"))
        tar.addfile(member("lfw/Ed", tarfile.SYMTYPE, "Ann"))
    with caplog.at_level(logging.WARNING):
        found = files_of(path)
    assert list(found) == [f"lfw/{p}/{p}_0001.jpg" for p in ("Ann", "Bo", "Cy")]
    assert all(file.load() == png(1) for file in found.values())
    assert "skipped 2 links and special files: lfw/Di/Di_0001.jpg, lfw/Ed;" in caplog.text


def test_a_tar_of_files_alone_needs_no_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_image_folder(tmp_path / "faces", {"ann": 1})
    with tarfile.open(tmp_path / "faces.tar", "w") as tar:
        tar.add(tmp_path / "faces", arcname="faces")
    assert list(files_of(tmp_path / "faces.tar")) == ["faces/ann/000.png"]
    assert caplog.text == ""
