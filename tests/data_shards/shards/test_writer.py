from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from data_shards.errors import DataError
from data_shards.shards.manifest import ShardInfo
from data_shards.shards.sample import Sample
from data_shards.shards.writer import finished_shard, noted_files, write_shard
from tests.helpers.image_shards import folder_bytes, png, sample


def write(folder: Path, count: int = 3, fingerprint: str = "one") -> ShardInfo:
    folder.mkdir(exist_ok=True)
    samples = (sample(number, number % 2) for number in range(count))
    return write_shard(folder, "train-000000", samples, ["class"], fingerprint=fingerprint)


def test_equal_samples_make_equal_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")


def test_the_tar_is_plain(tmp_path: Path) -> None:
    info = write(tmp_path / "a")
    with tarfile.open(tmp_path / "a" / "train-000000.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:2]] == ["000000000.json", "000000000.png"]
    assert {member.mtime for member in members} == {0}
    assert (info.num_samples, info.first_id, info.last_id) == (3, 0, 2)


def test_labels_have_a_column_per_label_column(tmp_path: Path) -> None:
    samples = [Sample(n, png(n), "png", {"age": 30 + n, "gender": n % 2}, "") for n in (4, 6)]
    write_shard(tmp_path, "train-000000", samples, ["gender", "age"])
    labels = np.load(tmp_path / "train-000000.labels.npy", allow_pickle=False)
    assert labels.dtype == np.int64
    assert labels.tolist() == [[0, 34], [0, 36]]


def test_a_shard_may_be_empty(tmp_path: Path) -> None:
    info = write(tmp_path / "a", count=0)
    assert (info.num_samples, info.first_id, info.last_id) == (0, -1, -1)
    assert finished_shard(tmp_path / "a", "train-000000", fingerprint="one") == info


def test_samples_out_of_order_or_without_a_label_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 follows 2"):
        write_shard(tmp_path, "a", [sample(2, 0), sample(2, 0)], ["class"])
    with pytest.raises(
        DataError, match=r"sample 0 .* has labels for class, none for age; give it one"
    ):
        write_shard(tmp_path, "a", [sample(0, 0)], ["class", "age"])
    assert list(tmp_path.iterdir()) == []


def test_a_finished_shard_is_known_again(tmp_path: Path) -> None:
    info = write(tmp_path / "a")
    assert finished_shard(tmp_path / "a", "train-000000", fingerprint="one") == info
    assert finished_shard(tmp_path / "a", "train-000000", fingerprint="other") is None
    assert finished_shard(tmp_path / "a", "train-000001", fingerprint="one") is None


@pytest.mark.parametrize("suffix", ["tar", "idx", "labels.npy", "json"])
def test_a_damaged_shard_does_not_count_as_finished(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "a")
    path = tmp_path / "a" / f"train-000000.{suffix}"
    path.write_bytes(path.read_bytes()[:-10])
    assert finished_shard(tmp_path / "a", "train-000000", fingerprint="one") is None
    path.unlink()
    assert finished_shard(tmp_path / "a", "train-000000", fingerprint="one") is None


def test_what_tells_a_change_of_files_is_noted_with_the_samples(tmp_path: Path) -> None:
    write(tmp_path)
    assert noted_files(tmp_path, "train-000000", fingerprint="one") == ({}, [0, 1, 2])
    samples = [sample(0, 0), sample(2, 0)]
    given = {"fingerprint": "two", "files": lambda ids: {"sizes": str(ids)}}
    write_shard(tmp_path, "train-000000", samples, ["class"], **given)
    found = noted_files(tmp_path, "train-000000", fingerprint="two")
    assert found == ({"sizes": "[0, 2]"}, [0, 2])
    assert noted_files(tmp_path, "train-000000", fingerprint="one") == ({}, [])
    assert noted_files(tmp_path, "train-000001", fingerprint="two") == ({}, [])
    entry = tmp_path / "train-000000.json"
    entry.write_bytes(entry.read_bytes()[:-10])
    assert noted_files(tmp_path, "train-000000", fingerprint="two") == ({}, [])


def test_writing_over_a_shard_first_withdraws_its_entry(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with pytest.raises(DataError):
        write_shard(tmp_path / "a", "train-000000", [sample(1, 0), sample(0, 0)], ["class"])
    assert not (tmp_path / "a" / "train-000000.json").exists()
