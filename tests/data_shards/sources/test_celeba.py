from __future__ import annotations

from pathlib import Path

import pytest

from data_shards.errors import DataError
from data_shards.importer import import_source
from data_shards.importing.plan import ImportOptions
from data_shards.shards.index import SampleIndex
from data_shards.shards.reader import read_shard
from data_shards.sources import celeba
from tests.helpers.image_shards import png


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six faces with two attributes: two a split."""
    folder = tmp_path / "celeba"
    (folder / celeba.IMAGES).mkdir(parents=True)
    rows, parts = [], []
    for number in range(6):
        name = f"{number:06d}.jpg"
        (folder / celeba.IMAGES / name).write_bytes(png(number))
        rows.append(f"{name} {'-1' if number % 2 else ' 1'}  {'1' if number % 2 else '-1'}")
        parts.append(f"{name} {number // 2}")
    (folder / celeba.ATTRIBUTES).write_text("\n".join(["6", "Bald Young ", *rows]) + "\n")
    (folder / celeba.PARTITION).write_text("\n".join(parts) + "\n")
    return folder


def test_attributes_are_columns_and_the_official_splits_stay(folder: Path, tmp_path: Path) -> None:
    source = celeba.read(folder)
    assert source.label_columns == ("Bald", "Young")
    assert source.label_names["Young"] == ("no", "yes")
    assert [item.labels for item in source.splits["train"]] == [
        {"Bald": 1, "Young": 0},
        {"Bald": 0, "Young": 1},
    ]
    assert source.splits["train"][1].file == folder / celeba.IMAGES / "000001.jpg"
    manifest = import_source(source, ImportOptions(out=tmp_path / "out"))
    assert list(manifest.splits) == ["train", "test", "validation"]
    for split in manifest.splits:
        assert manifest.class_counts(split, "Bald").tolist() == [1, 1]


def test_an_attribute_that_nobody_has_in_training_is_left_out(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (folder / celeba.ATTRIBUTES).read_text().splitlines()
    lines[2:4] = ["000000.jpg -1 -1", "000001.jpg -1 1"]  # the training faces: none is bald
    (folder / celeba.ATTRIBUTES).write_text("\n".join(lines))
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"of 'Bald' \(yes\) have images in a held-out split but"):
        import_source(celeba.read(folder), ImportOptions(out=out))
    manifest = import_source(celeba.read(folder), ImportOptions(out=out, label="Young"))
    assert manifest.label_columns == ("Young",)
    assert "a class without a training image: Bald (no 'yes'); to keep one" in caplog.text
    for split in manifest.splits:
        assert SampleIndex(manifest, split).labels("Young").tolist() == [0, 1]
        assert [sample.labels for sample in read_shard(manifest, split, 0)] == [
            {"Young": 0},
            {"Young": 1},
        ]


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        (celeba.ATTRIBUTES, 0, "7", "got '7' in the first line, and 6 images"),
        (celeba.ATTRIBUTES, 3, "000001.jpg 1", r":4: expected an image and 2 values"),
        (celeba.ATTRIBUTES, 3, "000001.jpg 1 0", r":4: expected an image and 2 values"),
        (
            celeba.ATTRIBUTES,
            3,
            "../x.jpg 1 1",
            r":4: expected a file name without folders, got '",
        ),
        (
            celeba.ATTRIBUTES,
            3,
            "/etc/x 1 1",
            r":4: expected a file name without folders, got '/e",
        ),
        (celeba.PARTITION, 1, "000001.jpg 3", r":2: expected an image .* and 0, 1 or 2"),
        (celeba.PARTITION, 1, "other.jpg 0", r":2: expected an image"),
    ],
)
def test_a_line_that_is_not_as_published_is_named(
    folder: Path, file: str, line: int, text: str, message: str
) -> None:
    lines = (folder / file).read_text().splitlines()
    lines[line] = text
    (folder / file).write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        celeba.read(folder)


def test_a_missing_list_is_named(folder: Path) -> None:
    (folder / celeba.PARTITION).unlink()
    with pytest.raises(DataError, match=r"list_eval_partition.txt does not exist"):
        celeba.read(folder)


def test_a_list_that_is_no_utf_8_is_named(folder: Path) -> None:
    with (folder / celeba.ATTRIBUTES).open("ab") as file:
        file.write(b"\xe9.jpg")
    with pytest.raises(DataError, match=r"list_attr_celeba.txt is not UTF-8 .*copy the published"):
        celeba.read(folder)


@pytest.mark.parametrize(("listed", "missing"), [(4, "2"), (0, "6")])
def test_a_partition_that_is_cut_off_is_refused(folder: Path, listed: int, missing: str) -> None:
    lines = (folder / celeba.PARTITION).read_text().splitlines()
    (folder / celeba.PARTITION).write_text("\n".join(lines[:listed]))
    first = f"{listed:06d}.jpg"
    with pytest.raises(DataError) as caught:
        celeba.read(folder)
    assert f"each of the 6 images of {celeba.ATTRIBUTES} once" in str(caught.value)
    assert f"missing: {missing} (the first is {first}), repeated: none" in str(caught.value)


@pytest.mark.parametrize("split", [0, 2])
def test_an_image_that_is_listed_twice_is_refused(folder: Path, split: int) -> None:
    with (folder / celeba.PARTITION).open("a") as file:
        file.write(f"000001.jpg {split}\n")
    with pytest.raises(DataError, match=r"missing: none, repeated: 1 \(the first is 000001.jpg\)"):
        celeba.read(folder)
