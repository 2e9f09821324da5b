"""Which samples a class keeps: long tails and test splits. Pure functions of labels and a seed.

Legend: N samples, C classes; a position is an index into the N samples.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data_shards.errors import DataError

Ints = npt.NDArray[np.int64]


def long_tail_counts(num_classes: int, max_per_class: int, ratio: float) -> Ints:
    """Return how many samples each class is to keep, falling exponentially with the class id.

    Class c keeps max_per_class * ratio ** (-c / (C - 1)) samples, rounded down, at least one: the
    counts of the CIFAR-LT and ImageNet-LT style benchmarks.

    Args:
        num_classes: C, >= 1.
        max_per_class: samples of class 0, >= 1.
        ratio: samples of class 0 over those of class C - 1, >= 1; 1 keeps all classes equal.

    Returns:
        (C,) int64, descending.

    Raises:
        DataError: on an argument out of range.
    """
    if num_classes < 1 or max_per_class < 1 or not 1 <= ratio < np.inf:
        raise DataError(
            "a long tail needs num_classes >= 1, max_per_class >= 1 and ratio >= 1, "
            f"got {num_classes}, {max_per_class} and {ratio}"
        )
    shares = ratio ** (-np.arange(num_classes) / max(num_classes - 1, 1))
    # The small term undoes rounding of the power: 1000 / 100 must not become 9.
    return np.maximum(1, np.floor(max_per_class * shares + 1e-6)).astype(np.int64)


def even_counts(class_sizes: Ints, total: int) -> Ints:
    """Return how many samples to take of each class, as evenly as the classes allow.

    Args:
        class_sizes: (C,) int64 samples of each class.
        total: number of samples to take, >= 0.

    Returns:
        (C,) int64, at most `class_sizes`, with sum `total`, or all samples if there are fewer. A
        class is two or more below another only if it has no more samples.
    """
    counts = np.zeros(len(class_sizes), dtype=np.int64)
    left = total
    for done, number in enumerate(np.argsort(class_sizes, kind="stable")):  # the smallest first
        counts[number] = min(class_sizes[number], left // (len(class_sizes) - done))
        left -= int(counts[number])
    return counts


def thin(labels: Ints, counts: Ints, rng: np.random.Generator) -> Ints:
    """Choose at random which samples of each class stay.

    Args:
        labels: (N,) int64 class ids, 0 .. C - 1.
        counts: (C,) int64 samples to keep; a class that has fewer keeps all it has.
        rng: the only source of randomness.

    Returns:
        (K,) int64 positions kept, ascending.
    """
    kept = [
        rng.permutation(positions)[:count]
        for positions, count in zip(_positions(labels, len(counts)), counts, strict=True)
    ]
    return np.sort(np.concatenate(kept))


def split_per_class(labels: Ints, fraction: float, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Divide the samples of each class into a training and a test part.

    A class with two samples or more has at least one in each part (unless `fraction` is 0); a
    class with one sample has it in the training part.

    Args:
        labels: (N,) int64 class ids.
        fraction: share of the test part, 0 <= fraction < 1.
        rng: the only source of randomness.

    Returns:
        Training and test positions, each ascending int64; together each position once.

    Raises:
        DataError: on a fraction out of range.
    """
    if not 0 <= fraction < 1:
        raise DataError(f"the test fraction must be at least 0 and below 1, got {fraction}")
    in_test = np.zeros(len(labels), dtype=bool)
    if fraction > 0:
        for positions in _positions(labels, int(labels.max(initial=-1)) + 1):
            wanted = max(1, int(len(positions) * fraction + 0.5))
            num_test = max(0, min(wanted, len(positions) - 1))
            in_test[rng.permutation(positions)[:num_test]] = True
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


def imbalance_ratio(counts: Ints) -> float:
    """Return the largest count over the smallest; classes without a sample are ignored."""
    present = counts[counts > 0]
    return float(present.max() / present.min()) if len(present) else 1.0


def _positions(labels: Ints, num_classes: int) -> list[Ints]:
    """Return the positions of each class, ascending."""
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    return np.split(order, ends[:-1])
