from __future__ import annotations

import os
from pathlib import Path

import pytest
import webdataset

from data_shards.errors import DataError
from data_shards.shards.manifest import Manifest
from data_shards.shards.reader import read_shard
from tests.helpers.image_shards import sample, write_image_shards


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    # A folder name that WebDataset's own URL handling would take apart.
    return write_image_shards(tmp_path / "pipe:{a,b}", [0, 1, 2, 3, 5], [0, 0, 1, 1, 2])


def test_samples_come_in_order_and_whole(manifest: Manifest) -> None:
    got = [item for number in (0, 1) for item in read_shard(manifest, "train", number)]
    assert got == [sample(*pair) for pair in [(0, 0), (1, 0), (2, 1), (3, 1), (5, 2)]]


def test_an_unknown_shard_is_refused(manifest: Manifest) -> None:
    with pytest.raises(DataError, match=r"must be 0\.\.1, got 2"):
        next(read_shard(manifest, "train", 2))
    with pytest.raises(DataError, match="no split 'test'"):
        next(read_shard(manifest, "test", 0))


def test_a_changed_tar_is_named_before_any_sample(manifest: Manifest) -> None:
    path = manifest.folder / "train-000001.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"train-000001\.tar is damaged"):
        next(read_shard(manifest, "train", 1))


def test_stopping_early_closes_the_file(manifest: Manifest) -> None:
    before = len(os.listdir("/proc/self/fd"))
    samples = read_shard(manifest, "train", 0, verify=False)
    next(samples)
    samples.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_any_webdataset_user_can_read_the_tars(tmp_path: Path) -> None:
    manifest = write_image_shards(tmp_path / "shards", [0, 1, 2], [0, 1, 2])
    tar = manifest.folder / "train-000000.tar"
    keys = [item["__key__"] for item in webdataset.WebDataset([str(tar)], shardshuffle=False)]
    assert keys == ["000000000", "000000001", "000000002"]
