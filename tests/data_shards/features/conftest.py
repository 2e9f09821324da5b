"""Embedding shards whose rows say which sample they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_shards.features.embedding_shard import EmbeddingShardInfo, write_embedding_shard
from data_shards.features.embeddings import finish_embeddings

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
