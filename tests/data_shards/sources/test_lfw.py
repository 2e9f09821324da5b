from __future__ import annotations

import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from data_shards.errors import DataError
from data_shards.sources import lfw
from tests.helpers.image_shards import png

FACES = {"Bo_Li": 2, "Ann_van_Lee": 1, "Cy": 3}
MODES: dict[str, Any] = {"tar": "w", "tgz": "w:gz", "tar.xz": "w:xz"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "lfw"
    for name, count in FACES.items():
        (folder / name).mkdir(parents=True)
        for number in range(1, count + 1):
            (folder / name / f"{name}_{number:04d}.jpg").write_bytes(png(number))
    (folder / "README").write_text("notes")
    (folder / "Cy" / "notes.txt").write_text("notes")
    (folder / "Cy" / "._Cy_0001.jpg").write_bytes(b"left by a file manager")
    return folder


def packed(folder: Path, suffix: str) -> Path:
    path = folder.with_name(f"faces.{suffix}")
    with tarfile.open(path, MODES[suffix]) as tar:
        tar.add(folder, arcname="lfw")
    return path


def test_people_of_a_folder(folder: Path) -> None:
    source = lfw.read(folder)
    assert source.label_names == {"identity": ("Ann_van_Lee", "Bo_Li", "Cy")}
    items = source.splits["train"]
    assert [item.labels["identity"] for item in items] == [0, 1, 1, 2, 2, 2]
    assert items[2].name == "Bo_Li/Bo_Li_0002.jpg"
    assert items[2].load() == png(2)
    assert items[2].extension == "jpg"
    assert items[2].file == folder / "Bo_Li" / "Bo_Li_0002.jpg"


@pytest.mark.parametrize("suffix", MODES)
def test_a_tar_gives_the_same_people(folder: Path, suffix: str) -> None:
    expected = lfw.read(folder)
    path = packed(folder, suffix)
    source = lfw.read(path)
    assert source.label_names == expected.label_names
    assert [item.load() for item in source.splits["train"]] == [
        item.load() for item in expected.splits["train"]
    ]
    assert source.splits["train"][0].name == "lfw/Ann_van_Lee/Ann_van_Lee_0001.jpg"
    assert {item.file for item in source.splits["train"]} == {path}


@pytest.mark.parametrize("suffix", ["tgz", "tar.xz"])
def test_a_damaged_tar_is_named(folder: Path, suffix: str) -> None:
    path = packed(folder, suffix)
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], b"no tar"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=f"faces.{suffix} is not a readable tar"):
            lfw.read(path)


def test_a_folder_without_faces_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(png(0))
    with pytest.raises(DataError, match=r"holds no face; expected files such as Ann_Lee"):
        lfw.read(tmp_path)


@pytest.mark.parametrize("as_tar", [False, True])
def test_a_face_in_two_folders_is_refused(folder: Path, as_tar: bool) -> None:
    copies = folder.with_name("lfw-deepfunneled") / "Cy"
    copies.mkdir(parents=True)
    (copies / "Cy_0002.jpg").write_bytes(png(9))
    path = folder.parent
    if as_tar:
        path = folder.with_name("faces.tar")
        with tarfile.open(path, "w") as tar:
            for part in (folder, copies.parent):
                tar.add(part, arcname=part.name)
    message = "lfw-deepfunneled/Cy/Cy_0002.jpg and lfw/Cy/Cy_0002.jpg.*the folder of one"
    with pytest.raises(DataError, match=message):
        lfw.read(path)
    (copies / "Cy_0002.jpg").rename(copies / "Cy_0004.jpg")
    assert len(lfw.read(folder.parent).splits["train"]) == 7


def test_names_that_look_the_same_are_one_person(tmp_path: Path) -> None:
    composed, taken_apart = (unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD"))
    for number, (name, file_name) in enumerate([(composed, taken_apart), (taken_apart, composed)]):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{file_name}_{number:04d}.jpg").write_bytes(png(number))
    source = lfw.read(tmp_path)
    assert source.label_names == {"identity": ("Zoë",)}
    assert len(source.splits["train"]) == 2


def test_folders_of_operating_systems_are_not_searched(folder: Path) -> None:
    (folder / "lost+found" / "Cy").mkdir(parents=True)
    (folder / "lost+found" / "Cy" / "Cy_0001.jpg").write_bytes(png(1))
    assert len(lfw.read(folder).splits["train"]) == sum(FACES.values())
