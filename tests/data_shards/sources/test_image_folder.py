from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import pytest

from data_shards.errors import DataError
from data_shards.sources import image_folder
from tests.helpers.image_shards import png, write_image_folder


def test_a_class_per_folder(tmp_path: Path) -> None:
    source = image_folder.read(write_image_folder(tmp_path / "faces", {"bo": 2, "ann": 1}))
    assert source.label_names == {"class": ("ann", "bo")}
    items = source.splits["train"]
    assert [(item.name, item.labels["class"]) for item in items] == [
        ("ann/000.png", 0),
        ("bo/000.png", 1),
        ("bo/001.png", 1),
    ]
    assert items[0].load() == png(2)
    assert items[0].file == tmp_path / "faces" / "ann" / "000.png"


def test_folders_are_walked_and_hidden_files_passed_over(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "faces", {"ann": 1, "bo": 1})
    (root / "ann" / "deep" / "deeper").mkdir(parents=True)
    (root / "ann" / "deep" / "deeper" / "a.jpeg").write_bytes(png(5))
    (root / "ann" / ".DS_Store").write_bytes(b"hidden")
    (root / "ann" / ".hidden").mkdir()
    (root / "ann" / ".hidden" / "b.png").write_bytes(png(6))
    (root / ".git").mkdir()
    (root / "bo" / "Thumbs.db").write_bytes(b"counts, and will not decode")
    names = [item.name for item in image_folder.read(root).splits["train"]]
    assert names == ["ann/000.png", "ann/deep/deeper/a.jpeg", "bo/000.png", "bo/Thumbs.db"]


@pytest.mark.parametrize("test_name", ["test", "val", "validation"])
def test_train_and_test_folders_become_splits(tmp_path: Path, test_name: str) -> None:
    write_image_folder(tmp_path / "train", {"ann": 2, "bo": 1})
    write_image_folder(tmp_path / test_name, {"bo": 1})
    source = image_folder.read(tmp_path)
    assert set(source.splits) == {"train", "test"}
    assert source.label_names == {"class": ("ann", "bo")}
    assert [(i.name, i.labels["class"]) for i in source.splits["test"]] == [
        (f"{test_name}/bo/000.png", 1)
    ]


@pytest.mark.parametrize("name", ["val", "validation"])
def test_val_beside_test_is_the_validation_split(tmp_path: Path, name: str) -> None:
    for folder in ("train", "test", name):
        write_image_folder(tmp_path / folder, {"ann": 1, "bo": 1})
    splits = image_folder.read(tmp_path).splits
    assert set(splits) == {"train", "test", "validation"}
    assert [i.name for i in splits["test"]] == ["test/ann/000.png", "test/bo/000.png"]
    assert [i.name for i in splits["validation"]] == [f"{name}/ann/000.png", f"{name}/bo/000.png"]


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    for folder in ("train", "val", "validation"):
        write_image_folder(tmp_path / folder, {"ann": 1, "bo": 1})
    with pytest.raises(DataError, match="holds val, validation, all for one split; merge them"):
        image_folder.read(tmp_path)


@pytest.mark.parametrize("test_name", ["test", "val", "validation"])
def test_splits_beside_other_folders_are_not_taken_for_classes(
    tmp_path: Path, test_name: str
) -> None:
    for name in ("train", test_name, "extra", "raw"):
        write_image_folder(tmp_path / name, {"ann": 1, "bo": 1})
    message = f"holds the splits train, {test_name}, but also extra, raw; expected"
    with pytest.raises(DataError, match=message):
        image_folder.read(tmp_path)


def test_of_many_folders_beside_the_splits_the_first_are_named(tmp_path: Path) -> None:
    for name in ("train", "test", *"abcdefg"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="move a, b, c, d, e and 2 more away"):
        image_folder.read(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "vehicles", {"train": 1, "tram": 1})
    assert image_folder.read(root).label_names == {"class": ("train", "tram")}


def test_files_beside_the_class_folders_are_said_to_be_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_image_folder(tmp_path / "faces", {"ann": 1, "bo": 1})
    (root / "README.txt").write_text("read me")
    with caplog.at_level(logging.WARNING):
        assert len(image_folder.read(root).splits["train"]) == 2
    assert "1 files outside the class folders are not imported, such as README.txt" in caplog.text


def test_an_empty_class_folder_is_a_class_without_images(tmp_path: Path) -> None:
    source = image_folder.read(write_image_folder(tmp_path / "faces", {"ann": 1, "bo": 0}))
    assert source.label_names == {"class": ("ann", "bo")}
    assert [item.name for item in source.splits["train"]] == ["ann/000.png"]


def test_what_has_no_class_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    with pytest.raises(DataError, match="has no class folder; expected"):
        image_folder.read(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        image_folder.read(tmp_path / "a.png")


def splits_of(root: Path, *folders: str) -> dict[str, str]:
    """Split -> the folder that its images come from, of folders with the same two classes."""
    for folder in folders:
        write_image_folder(root / folder, {"ann": 1, "bo": 1})
    source = image_folder.read(root)
    assert source.label_names == {"class": ("ann", "bo")}
    return {split: items[0].name.partition("/")[0] for split, items in source.splits.items()}


@pytest.mark.parametrize(
    "folders",
    [
        ("train",),
        ("train", "valid"),
        ("Train", "Test"),
        ("TRAINING", "Validation"),
        ("train", "dev"),
        ("training", "testing", "dev"),
        ("train", "eval", "dev"),
        ("train", "test", "evaluation"),
    ],
)
def test_usual_names_of_splits_are_known_in_any_case(
    tmp_path: Path, folders: tuple[str, ...]
) -> None:
    expected = dict(zip(("train", "test", "validation"), folders, strict=False))
    assert splits_of(tmp_path, *folders) == expected


def test_two_spellings_of_one_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds Train, train, all for one split"):
        splits_of(tmp_path, "train", "Train", "test")


def test_more_held_out_splits_than_two_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds train, test, eval, val, but an import has one test"):
        splits_of(tmp_path, "train", "val", "test", "eval")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("2019", "2020"), "2019, 2020 in .* only folders, such as 2019/ann .ann, bo more than"),
        (("valid", "test"), "test, valid in .* hold only folders"),
        (("train", "extra"), "extra, train in .* hold only folders"),
        (("data",), "data in .*, such as data/ann; .* --class-depth 2, or import .*/data alone"),
        (("train/2019", "train/2020", "test/2019"), "2019 in .*/test hold only|2019, 2020 in"),
    ],
)
def test_folders_above_the_classes_are_not_taken_for_classes(
    tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        splits_of(tmp_path, *folders)


def test_splits_one_level_too_deep_are_not_offered_as_classes(tmp_path: Path) -> None:
    for split in ("Train", "test"):
        write_image_folder(tmp_path / "photos" / split, {"ann": 1, "bo": 1})
    with pytest.raises(
        DataError, match=r"named like splits: Train, test; import \S+/photos alone"
    ) as e:
        image_folder.read(tmp_path)
    assert "--class-depth 2" not in str(e.value)


def test_what_describes_a_folder_is_no_image_of_a_class(tmp_path: Path) -> None:
    for year in ("2019", "2020"):
        write_image_folder(tmp_path / year, {"ann": 1, "bo": 1})
        (tmp_path / year / "labels.CSV").write_text("name,label")
    with pytest.raises(DataError, match="hold only folders"):
        image_folder.read(tmp_path)


@pytest.mark.parametrize("inner", ["ann", "session"])
def test_folders_that_recur_among_classes_are_refused(tmp_path: Path, inner: str) -> None:
    root = write_image_folder(tmp_path, {"ann": 1, "bo": 1})
    for name in ("x", "y"):
        write_image_folder(root / name, {inner: 1})
    with pytest.raises(DataError, match=rf"x, y hold only .*\({inner} more than once\)"):
        image_folder.read(root)


def test_a_class_may_hold_nothing_but_folders(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path, {"ann": 1, "bo": 1})
    write_image_folder(root / "cy", {"indoors": 1, "outdoors": 1})
    assert image_folder.read(root).label_names == {"class": ("ann", "bo", "cy")}


def test_the_level_of_the_classes_can_be_said(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_image_folder(tmp_path / split / "2019", {"ann": 1, "bo": 1})
        write_image_folder(tmp_path / split / "2020", {"ann": 1, "cy": 1})
    years = image_folder.read(tmp_path, class_depth=1)
    assert years.label_names == {"class": ("2019", "2020")}
    people = image_folder.read(tmp_path, class_depth=2)
    assert people.label_names == {"class": ("ann", "bo", "cy")}
    assert [(item.name, item.labels["class"]) for item in people.splits["train"]] == [
        ("train/2019/ann/000.png", 0),
        ("train/2019/bo/000.png", 1),
        ("train/2020/ann/000.png", 0),
        ("train/2020/cy/000.png", 2),
    ]
    with pytest.raises(DataError, match="no class folder; expected .*/FOLDER/FOLDER/CLASS/image"):
        image_folder.read(tmp_path, class_depth=3)


def test_names_that_look_the_same_are_one_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    composed, taken_apart = (unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD"))
    write_image_folder(tmp_path / "train", {composed: 2, "bo": 1})
    write_image_folder(tmp_path / "test", {taken_apart: 1})
    source = image_folder.read(tmp_path)
    assert source.label_names == {"class": ("Zoë", "bo")}
    assert [item.labels["class"] for item in source.splits["test"]] == [0]
    assert caplog.text == ""
    write_image_folder(tmp_path / "train", {taken_apart: 1})
    labels = [item.labels["class"] for item in image_folder.read(tmp_path).splits["train"]]
    assert sorted(labels) == [0, 0, 0, 1]
    assert "are one class: Zoë" in caplog.text


@pytest.mark.parametrize("name", ["__MACOSX", "lost+found", "@eaDir", "System Volume Information"])
def test_folders_of_operating_systems_are_no_classes(tmp_path: Path, name: str) -> None:
    root = write_image_folder(tmp_path, {"ann": 1, "bo": 1, name: 1})
    write_image_folder(root / "ann", {name: 1})
    source = image_folder.read(root)
    assert source.label_names == {"class": ("ann", "bo")}
    assert [item.name for item in source.splits["train"]] == ["ann/000.png", "bo/000.png"]
