"""Counts add up to what one process would have counted."""

import math

import numpy as np
import pytest

from trainer.evaluation.counts import ClassCounts

LABELS = np.array([0, 0, 0, 0, 1, 1, 3])
PREDICTIONS = np.array([0, 0, 0, 2, 1, 0, 0])


def counts(predictions=PREDICTIONS, labels=LABELS):
    return ClassCounts.of(predictions, labels, 4)


def test_right_answers_and_samples_are_counted_by_class():
    assert counts().correct.tolist() == [3, 1, 0, 0]
    assert counts().total.tolist() == [4, 2, 0, 1]
    assert counts().correct.dtype == counts().total.dtype == np.int64


def test_recall_is_by_class_and_unknown_without_a_sample():
    recall = counts().per_class_recall
    assert recall[[0, 1, 3]].tolist() == [0.75, 0.5, 0.0]
    assert math.isnan(recall[2])


def test_balanced_accuracy_weighs_classes_not_samples():
    assert counts().balanced_accuracy == pytest.approx((0.75 + 0.5 + 0.0) / 3)
    assert counts().accuracy == pytest.approx(4 / 7)


def test_with_two_classes_it_is_the_attribute_metric():
    labels = np.array([1] * 5 + [0] * 95)
    predictions = np.array([1] * 4 + [0] + [1] * 19 + [0] * 76)
    found = ClassCounts.of(predictions, labels, 2)
    assert found.balanced_accuracy == pytest.approx(0.5 * (4 / 5 + 76 / 95))


@pytest.mark.parametrize("cuts", [[], [0], [7], [3], [1, 2, 5], [0, 0, 4, 7]])
def test_parts_add_up_to_the_whole(cuts):
    parts = zip(np.split(PREDICTIONS, cuts), np.split(LABELS, cuts), strict=True)
    total = ClassCounts.of(PREDICTIONS[:0], LABELS[:0], 4)
    for predictions, labels in parts:
        total = total + counts(predictions, labels)
    assert total.correct.tolist() == counts().correct.tolist()
    assert total.total.tolist() == counts().total.tolist()


def test_nothing_counted_is_unknown_not_zero():
    nothing = ClassCounts.of(PREDICTIONS[:0], LABELS[:0], 4)
    assert nothing.total.tolist() == [0, 0, 0, 0]
    assert math.isnan(nothing.balanced_accuracy)
    assert math.isnan(nothing.accuracy)
    assert np.isnan(nothing.per_class_recall).all()
