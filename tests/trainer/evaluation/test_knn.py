"""The vote of the nearest training images, whatever the blocks they are read in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_shards.features.embedding_shard import write_embedding_shard
from data_shards.features.embeddings import EmbeddingShards, finish_embeddings
from tests.helpers.cluster_tables import tiny_table
from tests.helpers.reference_clustering import unit_rows
from tests.helpers.reference_trainer import nearest_images_vote
from trainer.config.sections import EvaluationConfig, TaskConfig
from trainer.evaluation.knn import balanced_vote, nearest_images, vote
from trainer.evaluation.readout import TaskContext
from trainer.evaluation.registry import predict_by_training_images
from trainer.evaluation.training_embeddings import missing_embeddings, training_embeddings
from trainer.models.heads import TaskHead

TASK = TaskConfig(name="shape", label="shape")
RNG = np.random.default_rng(0)
# A long tail: the last class but one has a single image, the last has none.
COUNTS = np.array([20, 10, 6, 3, 1, 0])
ROWS, LABELS = unit_rows(RNG, 40, 3), RNG.permutation(np.repeat(np.arange(6), COUNTS))
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


HEAD = TaskHead(
    4,
    embedding_dim=3,
    num_classes=6,
    classifier_input=None,
    vectors_per_class=1,
    retrained_input=None,
)


def predict(
    batches: list[np.ndarray], training: EmbeddingShards, config: EvaluationConfig
) -> dict[str, np.ndarray]:
    context = TaskContext(head=HEAD, config=config, class_counts=COUNTS, training=training)
    return predict_by_training_images(context, batches)


@pytest.mark.parametrize("k", [1, 3, 10, 40, 100])
def test_the_vote_equals_the_loops(tmp_path: Path, k: int) -> None:
    config = EvaluationConfig(knn=k, knn_balanced=k, soft_scale=5.0)
    got = predict([QUERIES], write(tmp_path), config)
    for readout, balanced in (("knn", False), ("knn_balanced", True)):
        expected = [slow_vote(query, k, balanced=balanced) for query in QUERIES]
        assert got[readout].tolist() == expected
        assert got[readout].dtype == np.int64


def slow_vote(query: np.ndarray, k: int, *, balanced: bool) -> int:
    rows = torch.tensor(ROWS)
    return nearest_images_vote(
        torch.tensor(query), rows, LABELS.tolist(), k, 5.0, balanced=balanced
    )


@pytest.mark.parametrize(("k", "balanced_k"), [(3, 30), (30, 3), (7, 100), (7, 0), (0, 7), (0, 0)])
def test_one_search_gives_what_two_would(tmp_path: Path, k: int, balanced_k: int) -> None:
    config = EvaluationConfig(knn=k, knn_balanced=balanced_k)
    got = predict([QUERIES], write(tmp_path), config)
    expected = {}
    if k:
        (found,) = nearest_images([QUERIES], [(ROWS, LABELS)], k)
        expected["knn"] = vote(*found, scale=16.0).tolist()
    if balanced_k:
        (found,) = nearest_images([QUERIES], [(ROWS, LABELS)], balanced_k)
        expected["knn_balanced"] = balanced_vote(*found, COUNTS, scale=16.0).tolist()
    assert {readout: predicted.tolist() for readout, predicted in got.items()} == expected


@pytest.mark.parametrize("size", [1, 7, 40])
def test_a_longer_search_begins_with_a_shorter_one(size: int) -> None:
    """To the last bit, also where several images are equally near."""
    rows = ROWS[RNG.integers(0, 9, 40)]
    parts = [(rows[n : n + size], LABELS[n : n + size]) for n in range(0, 40, size)]
    (longest,) = nearest_images([QUERIES], parts, 40)
    for k in (1, 6, 17):
        (shorter,) = nearest_images([QUERIES], parts, k)
        for got, expected in zip(shorter, longest, strict=True):
            np.testing.assert_array_equal(got, expected[:, :k])


@pytest.mark.parametrize("size", [1, 7, 39, 40])
def test_blocks_change_nothing(size: int) -> None:
    (whole,) = nearest_images([QUERIES], [(ROWS, LABELS)], 6)
    parts = [(ROWS[n : n + size], LABELS[n : n + size]) for n in range(0, 40, size)]
    (by_blocks,) = nearest_images([QUERIES], parts, 6)
    for got, expected in zip(by_blocks, whole, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_batches_share_a_search_and_do_not_change_each_other(tmp_path: Path) -> None:
    """To the last bit; each training row is read once for all of them."""
    read, training = [], write(tmp_path)
    gather = training.rows
    training.rows = lambda positions: read.extend(positions) or gather(positions)  # type: ignore[method-assign]
    batches = [QUERIES[:9], QUERIES[9:10], QUERIES[10:]]
    config = EvaluationConfig(knn=7, knn_balanced=30)
    together = predict(batches, training, config)
    assert read == list(range(40))
    for readout, predicted in together.items():
        alone = [predict([batch], training, config)[readout] for batch in batches]
        assert predicted.tolist() == np.concatenate(alone).tolist()
    parts = [(ROWS[:7], LABELS[:7]), (ROWS[7:], LABELS[7:])]
    for batch, found in zip(batches, nearest_images(batches, parts, 6), strict=True):
        (expected,) = nearest_images([batch], parts, 6)
        for got, of_one in zip(found, expected, strict=True):
            np.testing.assert_array_equal(got, of_one)


def test_of_equal_votes_the_lowest_class_wins() -> None:
    cosines = np.array([[0.5, 0.5, 0.5, 0.5], [0.9, 0.1, 0.1, 0.1]], np.float32)
    labels = np.array([[4, 2, 4, 2], [3, 1, 1, 1]])
    assert vote(cosines, labels, scale=16.0).tolist() == [2, 3]
    assert vote(cosines[:0], labels[:0], scale=16.0).shape == (0,)


def test_classes_vote_by_their_mean_not_by_their_number() -> None:
    counts = np.array([4, 2, 1, 1])
    labels = np.array([[0, 0, 0, 0, 1, 1], [0, 0, 0, 3, 2, 1], [1, 0, 0, 1, 0, 0]])
    cosines = np.full((3, 6), 0.5, np.float32)
    # All of 0 and of 1, so equal means; one image of one; all of both again, mixed.
    assert balanced_vote(cosines, labels, counts, scale=16.0).tolist() == [0, 2, 0]
    assert vote(cosines, labels, scale=16.0).tolist() == [0, 0, 0]
    # Of 0 only two images of four are near enough to vote; 2 and 3 are not among them at all.
    assert balanced_vote(cosines[:1, 2:], labels[:1, 2:], counts, scale=16.0).tolist() == [1]
    assert balanced_vote(cosines[:0], labels[:0], counts, scale=16.0).shape == (0,)


def test_a_large_scale_overflows_no_vote() -> None:
    cosines, labels = np.array([[0.9, 0.8, -1.0]], np.float32), np.array([[1, 0, 2]])
    counts = np.array([1, 1000, 1])
    assert balanced_vote(cosines, labels, counts, scale=1e4).tolist() == [1]
    assert balanced_vote(cosines, labels, counts, scale=1.0).tolist() == [0]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    both = missing_embeddings(EvaluationConfig(knn=1, knn_balanced=2), 5, tmp_path)
    assert both.startswith("no read-out knn, knn_balanced: the embeddings")
    assert f"`clmle embed --split train --snapshot 5 --out {tmp_path}`" in both
    balanced = missing_embeddings(EvaluationConfig(knn_balanced=2), 5, tmp_path)
    assert balanced.startswith("no read-out knn_balanced: the embeddings")


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
