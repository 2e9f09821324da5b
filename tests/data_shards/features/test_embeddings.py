from __future__ import annotations

import errno
import os
import resource
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_shards.errors import DataError
from data_shards.features import embeddings as module
from data_shards.features.embedding_shard import (
    EmbeddingShardInfo,
    finished_shard,
    write_embedding_shard,
)
from data_shards.features.embeddings import EmbeddingShards, begin_embeddings, finish_embeddings
from data_shards.features.gather import gather_rows

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


def test_a_manifest_of_another_origin_does_not_outlast_its_shards(folder: Path) -> None:
    begin_embeddings(folder, "w1")
    assert EmbeddingShards.open(folder).origin == "w1"
    begin_embeddings(folder, "w2")
    with pytest.raises(DataError, match="no finished embeddings"):
        EmbeddingShards.open(folder)
    begin_embeddings(folder / "new", "w2")  # nothing there yet


def test_a_shard_is_on_the_disk_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file with its own flush, and their names with a single one: a refresh writes many."""
    flushed: list[str] = []

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        flushed.append("folder" if path == tmp_path else path.name[path.name.index("s0") :])
        if path == tmp_path:
            flushed.append(f"{len(list(tmp_path.iterdir()))} names")

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path, "s0", [1, 2])
    assert flushed == ["s0.npy", "s0.ids.npy", "s0.labels.npy", "s0.json", "folder", "4 names"]


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


def test_a_task_touches_only_the_shards_of_its_rows(folder: Path) -> None:
    for path in folder.glob("shard-*"):
        if path.name != "shard-000002.npy":
            path.unlink()
    embeddings = EmbeddingShards.open_checked(folder)
    assert (embeddings.num_rows, embeddings.dim, embeddings.origin) == (6, DIM, "w1")
    np.testing.assert_array_equal(embeddings.rows(np.array([4, 3])), vectors(np.array([11, 10])))
    assert embeddings.rows(np.array([], dtype=np.int32)).shape == (0, DIM)


def test_a_task_may_ask_for_ids_and_labels(folder: Path) -> None:
    embeddings = EmbeddingShards.open_checked(folder)
    assert embeddings.ids.tolist() == [3, 1, 2, 10, 11, 7]
    assert embeddings.labels.tolist() == [0, 1, 2, 1, 2, 1]
    assert embeddings.ids is embeddings.ids


def test_a_task_names_the_file_that_it_cannot_read(folder: Path) -> None:
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
def test_half_of_the_files_allowed_are_for_shards(
    files: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, files))
    assert module._most_mapped() == most


def test_rows_of_parts_are_those_of_the_parts_joined() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.random((n, DIM), dtype=np.float32) for n in (4, 0, 1, 7, 0)]
    for num_rows in (0, 1, 50):
        positions = rng.integers(0, 12, num_rows, dtype=np.int32)
        got = gather_rows(parts, positions, DIM)
        np.testing.assert_array_equal(got, np.concatenate(parts)[positions])
