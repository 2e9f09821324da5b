"""The vote of the nearest training images, whatever the blocks they are read in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_shards.embeddings import EmbeddingShards, finish_embeddings, write_embedding_shard
from tests.helpers.cluster_tables import tiny_table
from tests.helpers.reference_clustering import unit_rows
from tests.helpers.reference_trainer import nearest_images_vote
from trainer.evaluation.neighbours import knn_predict, nearest_images, training_embeddings, vote
from trainer.sections import TaskConfig

TASK = TaskConfig(name="shape", label="shape")
RNG = np.random.default_rng(0)
ROWS, LABELS = unit_rows(RNG, 40, 3), RNG.integers(0, 5, 40)
QUERIES = unit_rows(RNG, 25, 3)


def write(folder: Path, *, origin: str = "weights:data") -> EmbeddingShards:
    infos = [
        write_embedding_shard(
            folder / "shape",
            f"shard-{n}",
            embeddings=ROWS[part],
            ids=np.arange(40)[part],
            labels=LABELS[part],
            origin=origin,
        )
        for n, part in enumerate((slice(0, 13), slice(13, 40)))
    ]
    finish_embeddings(folder / "shape", infos, origin)
    return EmbeddingShards.open(folder / "shape")


@pytest.mark.parametrize("k", [1, 3, 10, 40, 100])
def test_the_vote_equals_the_loops(tmp_path: Path, k: int) -> None:
    got = knn_predict(QUERIES, write(tmp_path), num_neighbours=k, scale=5.0)
    expected = [
        nearest_images_vote(torch.tensor(q), torch.tensor(ROWS), LABELS.tolist(), k, 5.0)
        for q in QUERIES
    ]
    assert got.tolist() == expected
    assert got.dtype == np.int64


@pytest.mark.parametrize("size", [1, 7, 39, 40])
def test_blocks_change_nothing(size: int) -> None:
    whole = nearest_images(QUERIES, [(ROWS, LABELS)], 6)
    parts = [(ROWS[n : n + size], LABELS[n : n + size]) for n in range(0, 40, size)]
    for got, expected in zip(nearest_images(QUERIES, parts, 6), whole, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_of_equal_votes_the_lowest_class_wins() -> None:
    cosines = np.array([[0.5, 0.5, 0.5, 0.5], [0.9, 0.1, 0.1, 0.1]], np.float32)
    labels = np.array([[4, 2, 4, 2], [3, 1, 1, 1]])
    assert vote(cosines, labels, scale=16.0).tolist() == [2, 3]
    assert vote(cosines[:0], labels[:0], scale=16.0).shape == (0,)


def test_embeddings_of_other_weights_are_none(tmp_path: Path) -> None:
    table = tiny_table(task="shape", clusters_per_class=(1, 1), dim=3)
    tables = {"shape": replace(table, stats={"snapshot_checksum": "weights"})}
    assert training_embeddings(tmp_path, (TASK,), tables) is None
    write(tmp_path)
    opened = training_embeddings(tmp_path, (TASK,), tables)
    assert opened is not None
    assert opened["shape"].num_rows == 40
    write(tmp_path, origin="others:data")
    assert training_embeddings(tmp_path, (TASK,), tables) is None
