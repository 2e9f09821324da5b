"""Small embedding shards for tests."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_shards.features.embedding_shard import write_embedding_shard
from data_shards.features.embeddings import finish_embeddings
from tests.helpers.reference_clustering import unit_rows


def labelled_rows(
    class_sizes: tuple[int, ...], *, dim: int = 6, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random unit rows, sample ids with holes, and labels; in no order of class or id."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(class_sizes)), class_sizes))
    ids = rng.permutation(2 * len(labels))[: len(labels)]
    return unit_rows(rng, len(labels), dim), ids, labels


def write_shards(
    folder: Path,
    rows: np.ndarray,
    ids: np.ndarray,
    labels: np.ndarray,
    *,
    num_shards: int = 3,
    ends: Sequence[int] = (),
) -> Path:
    """Write rows as finished shards, in the order given; `ends` says where each begins and ends."""
    parts = [np.arange(*pair) for pair in pairwise(ends)]
    infos = [
        write_embedding_shard(
            folder,
            f"shard-{number:06d}",
            embeddings=rows[part],
            ids=ids[part],
            labels=labels[part],
            origin="weights and data",
        )
        for number, part in enumerate(parts or np.array_split(np.arange(len(rows)), num_shards))
    ]
    finish_embeddings(folder, infos, "weights and data")
    return folder
