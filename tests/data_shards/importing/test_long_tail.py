from __future__ import annotations

import numpy as np
import pytest

from data_shards.errors import DataError
from data_shards.importing.long_tail import (
    even_counts,
    imbalance_ratio,
    long_tail_counts,
    split_per_class,
    thin,
)
from tests.helpers import reference_data_shards as reference


def test_the_counts_are_those_of_the_benchmarks() -> None:
    counts = long_tail_counts(10, 5000, 100)
    assert counts.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert counts.dtype == np.int64


@pytest.mark.parametrize("num_classes", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("max_per_class", [1, 13, 1000])
@pytest.mark.parametrize("ratio", [1, 1.5, 10, 100, 5000])
def test_the_counts_equal_the_slow_twin(num_classes: int, max_per_class: int, ratio: float) -> None:
    counts = long_tail_counts(num_classes, max_per_class, ratio)
    assert counts.tolist() == reference.long_tail_counts(num_classes, max_per_class, ratio)
    assert counts.min() >= 1
    assert (np.diff(counts) <= 0).all()


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, 0, 1), (1, 1, 0.5), (1, 1, float("nan"))])
def test_arguments_out_of_range_are_refused(arguments: tuple[int, int, float]) -> None:
    with pytest.raises(DataError, match="a long tail needs"):
        long_tail_counts(*arguments)


@pytest.mark.parametrize("class_sizes", [[5], [0, 3], [40, 20, 2, 1, 9], [1] * 7, [100, 100, 100]])
@pytest.mark.parametrize("total", [0, 1, 2, 7, 30, 1000])
def test_even_counts_equal_the_slow_twin_but_for_who_has_one_more(
    class_sizes: list[int], total: int
) -> None:
    counts = even_counts(np.array(class_sizes), total)
    assert sorted(counts) == sorted(reference.even_counts(class_sizes, total))
    assert (counts <= class_sizes).all()


def shuffled_labels() -> np.ndarray:
    labels = np.repeat(np.arange(5), [40, 20, 2, 1, 9])
    return np.random.default_rng(3).permutation(labels)


def test_thinning_keeps_what_it_is_told() -> None:
    labels = shuffled_labels()
    kept = thin(labels, np.array([10, 20, 5, 1, 4]), np.random.default_rng(0))
    assert np.bincount(labels[kept]).tolist() == [10, 20, 2, 1, 4]
    assert (np.diff(kept) > 0).all()


def test_thinning_depends_on_the_seed_alone() -> None:
    labels, counts = shuffled_labels(), np.array([10, 10, 1, 1, 1])
    first, again, other = (thin(labels, counts, np.random.default_rng(n)) for n in (0, 0, 1))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.5, 0.99])
def test_a_split_takes_each_position_once_and_leaves_no_part_empty(fraction: float) -> None:
    labels = shuffled_labels()
    train, test = split_per_class(labels, fraction, np.random.default_rng(0))
    assert np.sort(np.concatenate([train, test])).tolist() == list(range(len(labels)))
    in_train = np.bincount(labels[train], minlength=5)
    in_test = np.bincount(labels[test], minlength=5)
    assert (in_train >= 1).all()
    assert in_test.tolist() == [
        max(1, min(round(n * fraction + 1e-9), n - 1)) if n > 1 else 0 for n in (40, 20, 2, 1, 9)
    ]


def test_a_split_may_be_left_out() -> None:
    train, test = split_per_class(shuffled_labels(), 0, np.random.default_rng(0))
    assert train.tolist() == list(range(72))
    assert test.tolist() == []


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="test fraction"):
        split_per_class(shuffled_labels(), fraction, np.random.default_rng(0))


def test_the_imbalance_ratio_passes_over_empty_classes() -> None:
    assert imbalance_ratio(np.array([50, 0, 5])) == 10.0
    assert imbalance_ratio(np.array([], dtype=np.int64)) == 1.0
