from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from data_shards.errors import DataError
from data_shards.features.embedding_shard import finished_shard
from tests.data_shards.features.conftest import DIM, vectors, write


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
