from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_shards.atomic import sha256_of
from data_shards.errors import DataError
from data_shards.shards.manifest import MANIFEST_NAME, Manifest, verify_shard
from tests.helpers.image_shards import COLUMN, write_image_shards


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_image_shards(tmp_path / "shards", range(6), [0, 0, 0, 1, 1, 2])


def test_a_manifest_comes_back_as_written(manifest: Manifest) -> None:
    assert Manifest.load(manifest.folder) == manifest
    assert manifest.checksum == sha256_of(manifest.folder / MANIFEST_NAME)
    assert manifest.class_counts("train", COLUMN).tolist() == [3, 2, 1]
    assert manifest.class_counts("train", COLUMN).dtype == "int64"
    assert manifest.num_classes(COLUMN) == 3
    train = manifest.split("train")
    assert [(shard.first_id, shard.last_id) for shard in train.shards] == [(0, 3), (4, 5)]


def test_unknown_names_are_answered_with_those_that_exist(manifest: Manifest) -> None:
    with pytest.raises(DataError, match="no split 'test'; name one that it has: train"):
        manifest.split("test")
    with pytest.raises(DataError, match="no label column 'age'; name one that it has: class"):
        manifest.num_classes("age")
    with pytest.raises(DataError, match="no label column 'age'"):
        manifest.class_counts("train", "age")


def test_a_folder_without_a_manifest_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        Manifest.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no imported images"):
        Manifest.load(tmp_path)
    (manifest.folder / MANIFEST_NAME).unlink()
    (manifest.folder / "import.json").write_text("{}")
    with pytest.raises(DataError, match="has not finished"):
        Manifest.load(manifest.folder)


@pytest.mark.parametrize("suffix", ["tar", "idx", "labels.npy"])
def test_a_missing_file_is_named(manifest: Manifest, suffix: str) -> None:
    (manifest.folder / f"train-000001.{suffix}").unlink()
    with pytest.raises(DataError, match=rf"train-000001\.{suffix} is missing; import again"):
        Manifest.load(manifest.folder)


@pytest.mark.parametrize("num_bytes", [0, 512])
def test_a_cut_off_tar_is_named(manifest: Manifest, num_bytes: int) -> None:
    path = manifest.folder / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(DataError, match=f"train-000000.tar is truncated.*got {num_bytes} bytes"):
        Manifest.load(manifest.folder)


@pytest.mark.parametrize("suffix", ["tar", "idx", "labels.npy"])
def test_a_changed_byte_is_found_by_verifying(manifest: Manifest, suffix: str) -> None:
    shard = manifest.split("train").shards[1]
    verify_shard(manifest, shard)
    path = manifest.folder / f"{shard.name}.{suffix}"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"train-000001\.{suffix} is damaged"):
        verify_shard(manifest, shard)


def _drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.pop(key)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop("format"), "expected format"),
        (_drop("splits"), "is damaged"),
        (lambda content: content["splits"]["train"].update(num_samples=7), "counts differ"),
        (lambda content: content["splits"]["train"].update(shards=[]), "no shard"),
        (lambda content: content["splits"]["train"]["histograms"].update({COLUMN: [6]}), "3 names"),
        (lambda content: content["splits"]["train"]["shards"][0].pop("sha256"), "sha256"),
    ],
)
def test_a_damaged_manifest_says_what_is_wrong(
    manifest: Manifest, damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = manifest.folder / MANIFEST_NAME
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        Manifest.load(manifest.folder)
    assert "import again" in str(caught.value)


def test_train_comes_first(tmp_path: Path) -> None:
    made = write_image_shards(tmp_path / "shards", [0, 1, 2], [0, 1, 2])
    splits = {"test": made.splits["train"], "train": made.splits["train"]}
    again = Manifest(**{**vars(made), "splits": splits}).write()
    assert list(again.splits) == ["train", "test"]
