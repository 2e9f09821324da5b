"""Class weights and cross-entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers import reference_trainer as reference
from trainer.errors import ConfigError
from trainer.losses.softmax import class_weights, softmax_loss

COUNTS = np.array([1000, 100, 10, 1])


def test_no_weighting_is_one_for_each() -> None:
    assert class_weights(COUNTS, "none").tolist() == [1, 1, 1, 1]


def test_inverse_weights_make_every_class_count_as_much() -> None:
    weights = class_weights(COUNTS, "inverse").double()
    torch.testing.assert_close(weights * torch.from_numpy(COUNTS), weights[-1].expand(4))
    torch.testing.assert_close(weights.mean(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.99999])
def test_effective_number_equals_its_definition(beta: float) -> None:
    got = class_weights(COUNTS, "effective_number", beta=beta)
    expected = reference.effective_number_weights(COUNTS.tolist(), beta)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.tensor(expected))


@pytest.mark.parametrize("kind", ["none", "inverse", "effective_number"])
def test_a_class_without_samples_is_named(kind: str) -> None:
    with pytest.raises(ConfigError, match="class 2 has no training sample"):
        class_weights(np.array([5, 1, 0, 0]), kind)


def test_loss_equals_the_slow_twin() -> None:
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 3, 0, 0])
    weights = class_weights(COUNTS, "effective_number")
    expected = reference.weighted_cross_entropy(logits, labels.tolist(), weights.tolist())
    assert float(softmax_loss(logits, labels, weights)) == pytest.approx(expected, rel=1e-5)
    unweighted = reference.weighted_cross_entropy(logits, labels.tolist(), [1.0] * 4)
    assert float(softmax_loss(logits, labels, None)) == pytest.approx(unweighted, rel=1e-5)


def test_bfloat16_logits_are_computed_in_float32() -> None:
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.tensor([0, 1, 2, 3, 3, 0, 0])
    assert softmax_loss(logits, labels, None).dtype == torch.float32
    assert softmax_loss(logits, labels, None) == softmax_loss(logits.float(), labels, None)
