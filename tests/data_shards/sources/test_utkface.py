from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from data_shards.errors import DataError
from data_shards.sources import utkface
from tests.helpers.image_shards import png


def write_faces(folder: Path, names: Iterable[str]) -> Path:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(png(number))
    return folder


def names_of(*faces: tuple[int, int, int], times: int = 20) -> list[str]:
    """That many files of each (age, gender, race)."""
    return [
        f"{age}_{gender}_{race}_2017011700000{n:04d}.jpg.chip.jpg"
        for age, gender, race in faces
        for n in range(times)
    ]


@pytest.mark.parametrize(
    ("name", "face"),
    [
        ("26_1_2_20170116184024662.jpg", utkface.Face(26, 1, 2)),
        ("100_0_4_20170112213500903.jpg.chip.jpg", utkface.Face(100, 0, 4)),
        ("61_1_20170109142408075.jpg", None),  # three such names are in the published set
        ("26_2_2_20170116184024662.jpg", None),
        ("26_1_5_20170116184024662.jpg", None),
        ("151_1_2_20170116184024662.jpg", None),
        ("26_1_2_.jpg", None),
        ("x26_1_2_1.jpg", None),
    ],
)
def test_names_are_read_whole_or_not_at_all(name, face) -> None:
    assert utkface.parse(name) == face


def test_four_label_columns_of_one_set(tmp_path: Path) -> None:
    faces = (3, 0, 0), (27, 1, 2), (59, 0, 4), (60, 1, 4), (116, 0, 0)
    source = utkface.read(write_faces(tmp_path / "UTKFace", names_of(*faces)))
    assert source.label_columns == ("race", "age_decade", "gender", "age60")
    assert source.label_names == {
        "race": ("white", "asian", "other"),  # those that occur
        "age_decade": ("0-9", "10-29", "30-59", "60-69", "70+"),
        "gender": ("male", "female"),
        "age60": ("0-59", "60+"),
    }
    assert source.unlabelled == ()
    found = {
        item.name.split("_")[0]: tuple(item.labels.values()) for item in source.splits["train"]
    }
    assert found == {
        "3": (0, 0, 0, 0),
        "27": (1, 1, 1, 0),
        "59": (2, 2, 0, 0),
        "60": (2, 3, 1, 1),
        "116": (0, 4, 0, 1),
    }


def test_a_tar_gives_the_same_faces_and_odd_names_are_listed(tmp_path: Path) -> None:
    names = [*names_of((20, 0, 0), (70, 1, 1)), "39_1_20170116174525125.jpg", "._20_0_0_1.jpg"]
    folder = write_faces(tmp_path / "UTKFace", names)
    (folder / "README.txt").write_text("notes")
    path = tmp_path / "faces.tar.xz"
    with tarfile.open(path, "w:xz") as tar:
        tar.add(folder, arcname="UTKFace")
    packed, loose = utkface.read(path), utkface.read(folder)
    assert {item.file for item in packed.splits["train"]} == {path}
    assert all(item.file == folder / item.name for item in loose.splits["train"])
    assert packed.unlabelled == ("UTKFace/39_1_20170116174525125.jpg",)
    assert loose.unlabelled == ("39_1_20170116174525125.jpg",)
    assert packed.label_names == loose.label_names
    for theirs, ours in zip(packed.splits["train"], loose.splits["train"], strict=True):
        assert (theirs.labels, theirs.load()) == (ours.labels, ours.load())


def test_a_column_of_one_class_is_no_column(tmp_path: Path) -> None:
    source = utkface.read(write_faces(tmp_path / "faces", names_of((20, 0, 0), (25, 1, 0))))
    assert source.label_columns == ("gender",)
    alone = utkface.read(write_faces(tmp_path / "alone", names_of((20, 0, 0))))
    assert alone.label_names == {"race": ("white",)}


def test_a_folder_without_faces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no face; expected files such as 26_1_2_2017"):
        utkface.read(write_faces(tmp_path / "faces", ["a.jpg"]))


@pytest.mark.parametrize("as_tar", [False, True])
@pytest.mark.parametrize("suffix", [".jpg.chip.jpg", ".jpg"])
def test_a_face_in_two_folders_is_refused(tmp_path: Path, suffix: str, as_tar: bool) -> None:
    root = tmp_path / "faces"
    names = names_of((20, 0, 0), (70, 1, 1))
    write_faces(root / "UTKFace", names)
    write_faces(root / "crop_part1", [names[-1].replace(".jpg.chip.jpg", suffix)])
    path = root
    if as_tar:
        path = tmp_path / "faces.tar"
        with tarfile.open(path, "w") as tar:
            tar.add(root, arcname=".")
    name = "70_1_1_20170117000000019"
    with pytest.raises(DataError, match=rf"UTKFace/{name}.*crop_part1/{name}.*the folder of one"):
        utkface.read(path)
    assert len(utkface.read(root / "UTKFace").splits["train"]) == len(names)


def test_faces_may_lie_in_several_folders(tmp_path: Path) -> None:
    write_faces(tmp_path / "part1", names_of((20, 0, 0)))
    write_faces(tmp_path / "part2", names_of((70, 1, 1)))
    assert len(utkface.read(tmp_path).splits["train"]) == 40


@pytest.mark.parametrize(
    ("counts", "bins"),
    [
        ([30, 30, 30], [(0, 0), (1, 1), (2, 2)]),
        ([5, 30, 30], [(0, 1), (2, 2)]),
        ([30, 5, 15, 30], [(0, 0), (1, 2), (3, 3)]),
        ([30, 30, 5, 4], [(0, 0), (1, 3)]),
        ([0, 0, 30, 0], [(0, 3)]),
        ([1, 2, 3], [(0, 2)]),
    ],
)
def test_decades_with_few_images_join_a_neighbour(counts, bins) -> None:
    assert utkface.decade_bins(counts, 20) == bins


def test_bins_cover_all_decades_and_none_is_small() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(0, 40, size=10).tolist()
        bins = utkface.decade_bins(counts, 20)
        covered = [decade for first, last in bins for decade in range(first, last + 1)]
        assert covered == list(range(10))
        assert all(sum(counts[first : last + 1]) >= min(20, sum(counts)) for first, last in bins)
