"""Which images make a step, by their labels alone: the classic samplings against imbalance.

Pure functions of (seed, step, labels, shape), as `cluster_sampler`: so a run resumes exactly, and
any number of ranks trains on the same batches.

Legend: N samples, C classes that occur, n_c images of class c, B images of a micro-batch.

Most samplings draw in rounds. A round is a permutation of slots; class c owns q_c of them, so it
gets exactly q_c images a round, and after each round has used none of its images twice more than
another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from trainer.losses.spec import LabelSampling
from trainer.sampling.cluster_sampler import BatchShape, MicroBatchSamples
from trainer.sampling.permutations import IntArray, permuted

# Every use of randomness has a stream of its own; `cluster_sampler`'s are longer.
_IMAGES, _CLASSES, _IMAGES_OF_CLASS, _SLOTS, _PROGRESS = range(3, 8)


def label_batch(  # noqa: PLR0913 - a step's coordinates, and what is drawn
    labels: IntArray,
    ids: IntArray,
    *,
    seed: int,
    step: int,
    shape: BatchShape,
    sampling: LabelSampling = "instance",
    progress: float = 0.0,
    numbers: Sequence[int] | None = None,
) -> list[MicroBatchSamples]:
    """Draw a step's images without a cluster table.

    Args:
        labels: (N,) class of each sample; the same array at each step, and never changed, so that
            it is sorted by class only once.
        ids: (N,) sample ids.
        seed: of the run, >= 0.
        step: >= 0.
        shape: only the number of images counts, and for "class_groups" `images_per_class`.
        sampling: "instance" takes every image once an epoch. "class_balanced" takes the classes in
            turn, in a new order each round. "square_root" takes class c in proportion to
            sqrt(n_c), N images a round and at least one of each class (Mahajan et al., ECCV 2018).
            "under" takes of each class as many images as the rarest has, a new random subset each
            round. "progressive" draws each image "class_balanced" with probability `progress`,
            else "instance" (Kang et al., ICLR 2020). "class_groups" is "class_balanced" in groups
            of `images_per_class` images of a class: P x K batches for losses on pairs.
        progress: of the training run, in [0, 1]; for "progressive" only.
        numbers: of the micro-batches that are wanted, in [0, shape.micro_batches); None for all.

    Returns:
        The wanted micro-batches, of the sizes of `cluster_batch`'s, without clusters.
    """
    size = shape.micro_batch_size
    wanted = np.asarray(shape.numbers(numbers))
    in_step = (wanted[:, None] * size + np.arange(size)).ravel()
    positions = step * shape.num_images + in_step
    if sampling == "instance":
        rows = permuted(positions, len(ids), (seed, _IMAGES))
    elif sampling == "progressive":
        instances = permuted(positions, len(ids), (seed, _IMAGES))
        balanced = _in_rounds(_classes(labels), positions, seed, "class_balanced")
        draws = np.random.default_rng((seed, _PROGRESS, step)).random(shape.num_images)
        rows = np.where(draws[in_step] < progress, balanced, instances)
    elif sampling == "class_groups":
        rows = _in_groups(_classes(labels), positions, seed, shape.images_per_class)
    else:
        rows = _in_rounds(_classes(labels), positions, seed, sampling)
    return [MicroBatchSamples(ids[part], labels[part]) for part in rows.reshape(-1, size)]


def round_quotas(class_counts: IntArray, sampling: str) -> IntArray:
    """Images of each class in a round of a sampling.

    Args:
        class_counts: (C,) n_c >= 1.
        sampling: "class_balanced", "square_root" or "under".

    Returns:
        (C,) int64 q_c >= 1.
    """
    if sampling == "class_balanced":
        return np.ones_like(class_counts)
    if sampling == "under":
        return np.full_like(class_counts, class_counts.min())
    shares = np.sqrt(class_counts) * class_counts.sum() / np.sqrt(class_counts).sum()
    quotas: IntArray = np.maximum(1, np.rint(shares).astype(np.int64))
    return quotas


@dataclass(frozen=True)
class _Classes:
    """Rows of the samples by class."""

    order: IntArray
    """(N,) rows, class by class."""
    starts: IntArray
    """(C,) where each class begins in `order`."""
    counts: IntArray
    """(C,) n_c."""


def _in_rounds(classes: _Classes, positions: IntArray, seed: int, sampling: str) -> IntArray:
    """Rows at positions of an endless series of rounds."""
    quotas = round_quotas(classes.counts, sampling)
    first_slots = np.cumsum(quotas) - quotas
    stream = _CLASSES if sampling == "class_balanced" else _SLOTS
    slots = permuted(positions, int(quotas.sum()), (seed, stream))
    class_ = np.searchsorted(first_slots, slots, side="right") - 1
    # An image's number among those of its class. "under" begins a new permutation each round, so
    # that no image is twice in one.
    strides = classes.counts if sampling == "under" else quotas
    numbers = positions // int(quotas.sum()) * strides[class_] + slots - first_slots[class_]
    return _rows(classes, class_, numbers, seed)


def _in_groups(classes: _Classes, positions: IntArray, seed: int, size: int) -> IntArray:
    """Rows at positions where classes take turns, `size` images at a time."""
    groups, places = np.divmod(positions, size)
    num_classes = len(classes.counts)
    class_ = permuted(groups, num_classes, (seed, _CLASSES))
    return _rows(classes, class_, groups // num_classes * size + places, seed)


def _rows(classes: _Classes, class_: IntArray, numbers: IntArray, seed: int) -> IntArray:
    """The row of image number `numbers` of class `class_`, an endless series for each class."""
    rows = np.empty_like(numbers)
    by_class = np.argsort(class_, kind="stable")
    occur, begin = np.unique(class_[by_class], return_index=True)
    for c, places in zip(occur.tolist(), np.split(by_class, begin[1:]), strict=True):
        members = permuted(numbers[places], int(classes.counts[c]), (seed, _IMAGES_OF_CLASS, c))
        rows[places] = classes.order[classes.starts[c] + members]
    return rows


class _Identical:
    """Makes an array a cache key by its identity, not its content; the cache keeps it alive."""

    def __init__(self, array: IntArray) -> None:
        self.array = array

    def __hash__(self) -> int:
        return id(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identical) and other.array is self.array


def _classes(labels: IntArray) -> _Classes:
    return _by_class(_Identical(labels))


@lru_cache(maxsize=8)
def _by_class(labels: _Identical) -> _Classes:
    order = np.argsort(labels.array, kind="stable")
    _, starts, counts = np.unique(labels.array[order], return_index=True, return_counts=True)
    return _Classes(order, starts, counts)
