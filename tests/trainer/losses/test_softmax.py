"""Class weights and cross-entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_shards.errors import ConfigError
from tests.helpers import reference_trainer as reference
from trainer.losses.focal import focal_loss
from trainer.losses.ldam import margin_softmax_loss
from trainer.losses.margins import ldam_margins, rare_class_margins
from trainer.losses.softmax import (
    class_weights,
    log_priors,
    softmax_loss,
)

COUNTS = np.array([1000, 100, 10, 1])
LABELS = torch.tensor([0, 1, 2, 3, 3, 0, 0])


def some_logits(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)


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


@pytest.mark.parametrize("kind", ["inverse", "effective_number"])
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


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_focal_loss_equals_the_slow_twin(gamma: float, weighted: bool) -> None:
    weights = class_weights(COUNTS, "effective_number") if weighted else None
    logits = some_logits()
    expected = reference.focal(
        logits, LABELS.tolist(), weights.tolist() if weighted else [1.0] * 4, gamma
    )
    got = focal_loss(logits, LABELS, weights, gamma=gamma)
    assert float(got) == pytest.approx(expected, rel=1e-5)
    if gamma == 0:
        torch.testing.assert_close(got, softmax_loss(logits, LABELS, weights))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_stays_finite_for_sure_samples(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0]), None, gamma=gamma)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(100.0)
    assert torch.isfinite(logits.grad).all()


def test_balanced_softmax_weighs_exponentials_by_class_sizes() -> None:
    """Ren et al., equation 3: -log(n_y exp(z_y) / sum over j of n_j exp(z_j))."""
    logits = some_logits()
    got = softmax_loss(logits + log_priors(COUNTS), LABELS, None)
    assert float(got) == pytest.approx(
        reference.balanced_softmax(logits, LABELS.tolist(), COUNTS.tolist()), rel=1e-5
    )


def test_a_class_without_images_is_no_competitor_in_balanced_softmax() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    loss = softmax_loss(logits + log_priors(np.array([5, 0, 5])), torch.tensor([2]), None)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(np.log(2), rel=1e-5)
    assert logits.grad[0, 1] == 0


def test_ldam_equals_the_slow_twin() -> None:
    """Cao et al., equations 12 and 13, with the largest margin 0.5 of the rarest class."""
    cosines = some_logits().tanh()
    got = margin_softmax_loss(cosines, LABELS, None, margins=ldam_margins(COUNTS, 0.5), scale=30.0)
    expected = reference.ldam(cosines, LABELS.tolist(), COUNTS.tolist(), largest=0.5, scale=30.0)
    assert float(got) == pytest.approx(expected, rel=1e-5)
    assert float(ldam_margins(COUNTS, 0.5).max()) == 0.5


def test_rare_classes_have_larger_angular_margins_up_to_a_bound() -> None:
    margins = rare_class_margins(COUNTS, 0.3, exponent=0.1)
    expected = [0.3 * (1000 / n) ** 0.1 for n in COUNTS.tolist()]
    torch.testing.assert_close(margins, torch.tensor(expected))
    assert rare_class_margins(COUNTS, 0.3, exponent=0.5).max() == 1.5
    assert rare_class_margins(np.array([3, 0]), 0.3, exponent=0.0).tolist() == pytest.approx(
        [0.3, 0.3]
    )
