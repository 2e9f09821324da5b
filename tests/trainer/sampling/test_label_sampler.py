"""Sampling by label: pure, with the promised share of each class, and no image too early."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from trainer.losses.spec import LabelSampling
from trainer.sampling.cluster_sampler import BatchShape
from trainer.sampling.label_sampler import label_batch, round_quotas

SHAPE = BatchShape(micro_batches=2, micro_batch_size=12, clusters=4, siblings=1, images_per_class=3)
SAMPLINGS = get_args(LabelSampling)

LABELS = np.array([4, 0, 0, 2, 0, 0, 0, 2, 0, 0], np.int64)  # no image of classes 1 and 3
IDS = np.arange(10, dtype=np.int64) * 7 + 100


def drawn_ids(sampling: str, steps: range, *, seed: int = 0) -> list[int]:
    batches = (
        label_batch(LABELS, IDS, seed=seed, step=step, shape=SHAPE, sampling=sampling, progress=0.5)
        for step in steps
    )
    return [int(i) for batch in batches for part in batch for i in part.sample_ids]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_label_batches_are_full_and_labelled(sampling: str) -> None:
    batch = label_batch(LABELS, IDS, seed=0, step=3, shape=SHAPE, sampling=sampling)
    label_of = dict(zip(IDS.tolist(), LABELS.tolist(), strict=True))
    assert len(batch) == SHAPE.micro_batches
    for part in batch:
        assert len(part.sample_ids) == SHAPE.micro_batch_size
        assert part.clusters is None
        assert part.classes.tolist() == [label_of[int(i)] for i in part.sample_ids]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_label_batches_are_pure(sampling: str) -> None:
    assert drawn_ids(sampling, range(4)) == drawn_ids(sampling, range(4))
    # A later step does not need the earlier ones.
    assert drawn_ids(sampling, range(3, 4)) == drawn_ids(sampling, range(4))[-SHAPE.num_images :]
    assert drawn_ids(sampling, range(4)) != drawn_ids(sampling, range(4), seed=1)
    assert drawn_ids(sampling, range(1)) != drawn_ids(sampling, range(1, 2))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("numbers", [[3], [1, 3], [2, 0]])
def test_each_micro_batch_can_be_drawn_alone(sampling: str, numbers: list[int]) -> None:
    shape = replace(SHAPE, micro_batches=4)
    whole, some = (
        label_batch(
            LABELS,
            IDS,
            seed=0,
            step=5,
            shape=shape,
            sampling=sampling,
            progress=0.5,
            numbers=wanted,
        )
        for wanted in (None, numbers)
    )
    expected = [whole[g].sample_ids.tolist() for g in numbers]
    assert [part.sample_ids.tolist() for part in some] == expected


def test_instance_sampling_takes_every_image_once_an_epoch() -> None:
    drawn = drawn_ids("instance", range(10))  # 240 images: 24 epochs
    epochs = [drawn[start : start + 10] for start in range(0, 240, 10)]
    assert all(sorted(epoch) == IDS.tolist() for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 24


def test_class_balanced_sampling_takes_classes_evenly_and_no_image_too_early() -> None:
    drawn = drawn_ids("class_balanced", range(7))  # 168 images: 56 of each class
    label_of = dict(zip(IDS.tolist(), LABELS.tolist(), strict=True))
    for place in range(0, 168, 3):
        assert sorted(label_of[i] for i in drawn[place : place + 3]) == [0, 2, 4]
    heads = [i for i in drawn if label_of[i] == 0]
    for start in range(0, 56, 7):
        assert len(set(heads[start : start + 7])) == 7


LABEL_OF = dict(zip(IDS.tolist(), LABELS.tolist(), strict=True))


def test_square_root_sampling_takes_classes_by_the_root_of_their_size() -> None:
    """Of 10 images in classes of 7, 2 and 1: 10 sqrt(n) / (sqrt 7 + sqrt 2 + 1) = 5.2, 2.8, 2.0."""
    drawn = drawn_ids("square_root", range(10))  # 240 images: 24 rounds
    for start in range(0, 240, 10):
        assert Counter(LABEL_OF[i] for i in drawn[start : start + 10]) == {0: 5, 2: 3, 4: 2}
        for class_ in (0, 2, 4):
            times = [drawn[: start + 10].count(i) for i in IDS.tolist() if LABEL_OF[i] == class_]
            assert max(times) - min(times) <= 1


def test_no_class_is_left_out_however_rare() -> None:
    counts = np.array([1_000_000, 10_000, 1])
    quotas = round_quotas(counts, "square_root")
    assert quotas[2] >= 1
    np.testing.assert_allclose(quotas / quotas.sum(), np.sqrt(counts) / 1101, atol=1e-4)


def test_under_sampling_takes_a_new_subset_of_each_class_a_round() -> None:
    labels, ids = np.repeat([0, 1, 2], [9, 5, 2]), np.arange(16)
    batches = [
        label_batch(labels, ids, seed=0, step=step, shape=SHAPE, sampling="under")
        for step in range(20)
    ]
    drawn = [int(i) for batch in batches for part in batch for i in part.sample_ids]
    rounds = [drawn[start : start + 6] for start in range(0, 480, 6)]
    assert all(len(set(taken)) == 6 for taken in rounds)
    assert all(Counter(labels[taken].tolist()) == {0: 2, 1: 2, 2: 2} for taken in rounds)
    assert len({tuple(sorted(taken)) for taken in rounds}) > 40
    assert set(drawn) == set(ids.tolist())


@pytest.mark.parametrize(("progress", "twin"), [(0.0, "instance"), (1.0, "class_balanced")])
def test_progressive_sampling_begins_and_ends_as_others(progress: float, twin: str) -> None:
    def ids(sampling: str) -> list[list[int]]:
        batch = label_batch(
            LABELS, IDS, seed=0, step=5, shape=SHAPE, sampling=sampling, progress=progress
        )
        return [part.sample_ids.tolist() for part in batch]

    assert ids("progressive") == ids(twin)


def test_progressive_sampling_goes_linearly_from_instances_to_classes() -> None:
    labels = np.repeat([0, 1], [900, 100])
    shape = BatchShape(
        micro_batches=1, micro_batch_size=4000, clusters=400, siblings=0, images_per_class=10
    )
    for progress in (0.25, 0.5, 0.75):
        (batch,) = label_batch(
            labels, labels, seed=0, step=3, shape=shape, sampling="progressive", progress=progress
        )
        expected = (1 - progress) * 0.1 + progress * 0.5
        assert (batch.classes == 1).mean() == pytest.approx(expected, abs=0.02)


def test_class_groups_are_several_images_of_a_class_at_a_time() -> None:
    drawn = drawn_ids("class_groups", range(7))  # 168 images: 56 groups of 3
    groups = [[LABEL_OF[i] for i in drawn[start : start + 3]] for start in range(0, 168, 3)]
    assert all(len(set(group)) == 1 for group in groups)
    turns = [sorted(group[0] for group in groups[n : n + 3]) for n in range(0, 54, 3)]
    assert turns == [[0, 2, 4]] * 18
    heads = [i for i in drawn if LABEL_OF[i] == 0]
    assert all(len(set(heads[start : start + 7])) == 7 for start in range(0, len(heads) - 6, 7))
