from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_shards.embeddings import (
    EmbeddingShardInfo,
    EmbeddingShards,
    finish_embeddings,
    finished_shard,
    write_embedding_shard,
)
from data_shards.errors import DataError

DIM = 5


def vectors(ids: np.ndarray) -> np.ndarray:
    return np.stack([np.full(DIM, number) for number in ids]).astype(np.float32)


def write(folder: Path, name: str, numbers: list[int], **changes: Any) -> EmbeddingShardInfo:
    ids = np.array(numbers, dtype=np.int64)
    made = vectors(ids) if numbers else np.empty((0, DIM), dtype=np.float32)
    arrays = {"embeddings": made, "ids": ids, "labels": ids % 3, "origin": "w1"}
    return write_embedding_shard(folder, name, **{**arrays, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "step_000200"
    parts = [[3, 1, 2], [], [10, 11], [7]]
    infos = [write(folder, f"shard-{at:06d}", ids) for at, ids in enumerate(parts)]
    finish_embeddings(folder, infos, "w1")
    return folder


def test_rows_come_back_in_any_order(folder: Path) -> None:
    embeddings = EmbeddingShards.open(folder)
    assert (embeddings.num_rows, embeddings.dim, embeddings.origin) == (6, DIM, "w1")
    assert embeddings.ids.tolist() == [3, 1, 2, 10, 11, 7]
    assert embeddings.labels.tolist() == [0, 1, 2, 1, 2, 1]
    assert [shard.num_rows for shard in embeddings.shards] == [3, 0, 2, 1]
    positions = np.array([5, 0, 3, 3, 4, 1])
    got = embeddings.rows(positions)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, vectors(embeddings.ids[positions]))
    assert embeddings.rows(np.array([], dtype=np.int64)).shape == (0, DIM)


@pytest.mark.parametrize("position", [-1, 6])
def test_a_position_out_of_range_is_refused(folder: Path, position: int) -> None:
    with pytest.raises(DataError, match=r"positions must lie in 0\.\.5"):
        EmbeddingShards.open(folder).rows(np.array([0, position]))


def test_without_a_manifest_nothing_is_read(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="holds no finished embeddings"):
        EmbeddingShards.open(folder)
    (folder / "manifest.json").write_text('{"format": "else"}')
    with pytest.raises(DataError, match="no manifest of"):
        EmbeddingShards.open(folder)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("suffix", ["npy", "ids.npy", "labels.npy"])
def test_a_cut_off_file_is_named(folder: Path, suffix: str, verify: bool) -> None:
    path = folder / f"shard-000002.{suffix}"
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(DataError, match=rf"shard-000002\.{suffix}"):
        EmbeddingShards.open(folder, verify=verify)
    assert finished_shard(folder, "shard-000002", "w1") is None
    path.unlink()
    with pytest.raises(DataError, match=rf"shard-000002\.{suffix}"):
        EmbeddingShards.open(folder, verify=verify)


@pytest.mark.parametrize("suffix", ["npy", "ids.npy", "labels.npy"])
def test_a_changed_byte_is_found(folder: Path, suffix: str) -> None:
    path = folder / f"shard-000000.{suffix}"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"shard-000000\.{suffix} is damaged"):
        EmbeddingShards.open(folder)


def test_a_file_of_another_shape_is_named(folder: Path) -> None:
    np.save(folder / "shard-000003.labels.npy", np.arange(2))
    with pytest.raises(DataError, match=r"shard-000003\.labels\.npy holds int64\(2,\), expected"):
        EmbeddingShards.open(folder, verify=False)


def test_a_finished_shard_is_reused_only_with_its_origin(folder: Path) -> None:
    info = finished_shard(folder, "shard-000000", "w1")
    assert info is not None
    assert info.num_rows == 3
    assert finished_shard(folder, "shard-000000", "w2") is None
    assert finished_shard(folder, "shard-000009", "w1") is None
    (folder / "shard-000000.json").write_text("{")
    assert finished_shard(folder, "shard-000000", "w1") is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_named(tmp_path: Path, bad: float) -> None:
    broken = vectors(np.array([4, 5, 6]))
    broken[1, 2] = bad
    with pytest.raises(DataError, match="shard s: the embedding of sample 5 is not finite"):
        write(tmp_path, "s", [4, 5, 6], embeddings=broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"embeddings": np.zeros((2, DIM))},
        {"embeddings": np.zeros(DIM, dtype=np.float32)},
        {"ids": np.zeros(3, dtype=np.int64)},
        {"labels": np.zeros(2, dtype=np.int32)},
    ],
)
def test_arrays_of_another_shape_or_type_are_refused(
    tmp_path: Path, changes: dict[str, np.ndarray]
) -> None:
    with pytest.raises(DataError, match=r"expected float32\(n, D\), int64\(n,\), int64\(n,\), got"):
        write(tmp_path, "s", [4, 5], **changes)


def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path, "a", [1, 2])
    other_origin = write(tmp_path, "b", [3], origin="w2")
    other_dim = write(tmp_path, "c", [3], embeddings=np.zeros((1, 2), dtype=np.float32))
    for other in (other_origin, other_dim):
        with pytest.raises(DataError, match="does not belong here"):
            finish_embeddings(tmp_path, [first, other], "w1")
    with pytest.raises(DataError, match="no embedding shard"):
        finish_embeddings(tmp_path, [], "w1")


def test_a_sample_in_two_shards_is_refused(tmp_path: Path) -> None:
    infos = [write(tmp_path, "a", [1, 2]), write(tmp_path, "b", [2, 3])]
    finish_embeddings(tmp_path, infos, "w1")
    with pytest.raises(
        DataError, match="sample 2 2 times, expected each sample once; embed again$"
    ):
        EmbeddingShards.open(tmp_path)
