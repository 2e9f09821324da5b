from __future__ import annotations

import errno
import os
import resource
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_shards.atomic import read_json, write_json
from data_shards.errors import DataError
from data_shards.features import embeddings as module
from data_shards.features.embedding_shard import EmbeddingShardInfo, finished_shard
from data_shards.features.embeddings import EmbeddingShards, begin_embeddings, finish_embeddings
from tests.data_shards.features.conftest import DIM, vectors, write


def test_a_manifest_of_another_origin_does_not_outlast_its_shards(folder: Path) -> None:
    begin_embeddings(folder, "w1")
    assert EmbeddingShards.open(folder).origin == "w1"
    begin_embeddings(folder, "w2")
    with pytest.raises(DataError, match="no finished embeddings"):
        EmbeddingShards.open(folder)
    begin_embeddings(folder / "new", "w2")  # nothing there yet


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


@pytest.mark.parametrize("shards", [[{"name": "train-000000"}], ["train-000000"], 7])
def test_a_manifest_with_damaged_entries_is_named(folder: Path, shards: object) -> None:
    path = folder / "manifest.json"
    write_json(path, read_json(path) | {"shards": shards})
    with pytest.raises(DataError, match=r"manifest\.json is damaged \(.*\); embed again"):
        EmbeddingShards.open(folder)


def test_without_a_manifest_nothing_is_read(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="holds no finished embeddings"):
        EmbeddingShards.open(folder)
    (folder / "manifest.json").write_text('{"format": "else"}')
    with pytest.raises(DataError, match="not a manifest of"):
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


def test_a_worker_reads_only_the_shards_of_its_rows(folder: Path) -> None:
    for path in folder.glob("shard-*"):
        if path.name != "shard-000002.npy":
            path.unlink()
    embeddings = EmbeddingShards.open_checked(folder)
    assert (embeddings.num_rows, embeddings.dim, embeddings.origin) == (6, DIM, "w1")
    np.testing.assert_array_equal(embeddings.rows(np.array([4, 3])), vectors(np.array([11, 10])))
    assert embeddings.rows(np.array([], dtype=np.int32)).shape == (0, DIM)


def test_a_worker_may_ask_for_ids_and_labels(folder: Path) -> None:
    embeddings = EmbeddingShards.open_checked(folder)
    assert embeddings.ids.tolist() == [3, 1, 2, 10, 11, 7]
    assert embeddings.labels.tolist() == [0, 1, 2, 1, 2, 1]
    assert embeddings.ids is embeddings.ids


def test_a_worker_names_the_file_that_it_cannot_read(folder: Path) -> None:
    embeddings = EmbeddingShards.open_checked(folder)
    path = folder / "shard-000002.npy"
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(DataError, match=r"shard-000002\.npy is truncated or changed.*embed again"):
        embeddings.rows(np.array([0, 4]))
    path.unlink()
    with pytest.raises(DataError, match=r"shard-000002\.npy is missing; embed again"):
        embeddings.rows(np.array([0, 4]))
    np.save(folder / "shard-000003.npy", vectors(np.array([7])).astype(np.int32))
    with pytest.raises(DataError, match=r"shard-000003\.npy holds int32\(1, 5\), expected float32"):
        embeddings.rows(np.array([5]))
    (folder / "shard-000000.labels.npy").unlink()
    with pytest.raises(DataError, match=r"shard-000000\.labels\.npy.*embed again"):
        _ = embeddings.labels
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"holds no finished embeddings.*embed again"):
        EmbeddingShards.open_checked(folder)


def test_a_manifest_that_cannot_be_looked_at_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(path: Path, **_: Any) -> Any:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(Path, "stat", stale)
    with pytest.raises(DataError, match=r"cannot read .*manifest\.json: Stale file handle; embed"):
        EmbeddingShards.open_checked(folder)


def test_a_process_reads_a_manifest_once_while_it_stays_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    read_json = module.read_json
    monkeypatch.setattr(module, "read_json", lambda path: read.append(path) or read_json(path))
    for _ in range(3):
        assert EmbeddingShards.open_checked(folder).num_rows == 6
    assert len(read) == 1
    finish_embeddings(folder, [write(folder, "shard-000000", [5, 4])], "w1")
    again = EmbeddingShards.open_checked(folder)
    np.testing.assert_array_equal(again.rows(np.array([1, 0])), vectors(np.array([4, 5])))
    assert len(read) == 2


def test_few_shards_are_mapped_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    infos = [write(tmp_path, f"s{at}", [2 * at, 2 * at + 1]) for at in range(6)]
    finish_embeddings(tmp_path, infos, "w1")
    maps: list[weakref.ref[np.ndarray]] = []
    map_vectors = module._map_vectors

    def recorded(folder: Path, shard: EmbeddingShardInfo) -> np.ndarray:
        made = map_vectors(folder, shard)
        maps.append(weakref.ref(made))
        return made

    monkeypatch.setattr(module, "_map_vectors", recorded)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (5, 100))
    embeddings = EmbeddingShards.open(tmp_path)
    assert maps == []
    wanted = np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(embeddings.rows(wanted), vectors(wanted))
    assert (len(maps), sum(made() is not None for made in maps)) == (6, 2)
    embeddings.rows(np.array([8, 11]))
    assert len(maps) == 6  # these two were still there


@pytest.mark.parametrize(
    ("files", "most"), [(1024, 512), (2**20, 16_384), (resource.RLIM_INFINITY, 16_384)]
)
def test_shards_take_up_to_half_of_the_open_files(
    files: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, files))
    assert module._most_mapped() == most
