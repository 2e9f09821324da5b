"""The implicit spread of embeddings: that of the slow twin, and a bound of what sampling gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.helpers import reference_trainer as reference
from tests.trainer.models.test_models import images, tiny_network
from trainer.losses.isda import isda_offsets, moved_covariance
from trainer.losses.schedule import isda_factor


def rows(num: int, seed: int, dim: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(num, dim, generator=generator), dim=1)


def covariance(seed: int = 3) -> Tensor:
    factor = rows(6, seed)
    return factor.T @ factor / 6


@pytest.mark.parametrize("labels", [[0], [4, 4, 1, 0, 3]])
def test_offsets_are_those_of_the_slow_twin(labels: list[int]) -> None:
    slopes = 5 * rows(5, 0)
    offsets = isda_offsets(slopes, covariance(), torch.tensor(labels))
    expected = reference.isda_offsets(slopes, covariance(), labels)
    torch.testing.assert_close(offsets, expected, rtol=1e-4, atol=1e-5)
    assert offsets.min() > -1e-5
    own = offsets.gather(1, torch.tensor(labels)[:, None])
    torch.testing.assert_close(own, torch.zeros_like(own), rtol=0, atol=1e-5)


def test_offsets_have_the_right_gradient() -> None:
    slopes, labels = rows(5, 0).double().requires_grad_(), torch.tensor([2, 0, 2])
    weights = rows(3, 1, dim=5)

    def value(slopes: Tensor) -> Tensor:
        return (weights * isda_offsets(slopes, covariance(), labels)).sum()

    assert torch.autograd.gradcheck(value, (slopes,), eps=1e-2, atol=1e-3, rtol=1e-3)


def test_the_loss_bounds_that_of_drawn_embeddings() -> None:
    """lambda 0.5, and a hundred thousand draws around each point."""
    slopes, points, labels = 3 * rows(5, 0), rows(4, 2), torch.tensor([0, 3, 1, 1])
    factor = torch.linalg.cholesky(0.5 * covariance() + 1e-9 * torch.eye(4))
    noise = torch.randn(100_000, 4, generator=torch.Generator().manual_seed(0)) @ factor.T
    for point, label in zip(points, labels, strict=True):
        logits = (point + noise) @ slopes.T
        drawn = functional.cross_entropy(logits, label.expand(len(noise)))
        offsets = 0.5 * isda_offsets(slopes, covariance(), label[None])
        closed = functional.cross_entropy((point @ slopes.T)[None] + offsets, label[None])
        plain = functional.cross_entropy((point @ slopes.T)[None], label[None])
        assert plain < drawn < closed


def test_the_covariance_moves_as_in_the_slow_twin() -> None:
    moved, steps = None, [(rows(6, seed), rows(6, seed + 10)) for seed in (1, 2, 4)]
    for embeddings, centers in steps:
        moved = moved_covariance(moved, embeddings, centers, momentum=0.7)
    assert moved is not None
    torch.testing.assert_close(moved, reference.running_covariance(steps, 0.7))
    assert torch.linalg.eigvalsh(moved).min() > -1e-6


def test_the_spread_grows_from_the_first_table_to_the_end() -> None:
    factors = [isda_factor(step, first_step=30, num_steps=80) for step in (0, 30, 55, 80, 90)]
    assert factors == [0, 0, 0.5, 1, 1]
    assert isda_factor(5, first_step=5, num_steps=5) == 0


@pytest.mark.parametrize("classifier_input", ["features", "embedding"])
def test_slopes_say_how_fast_logits_grow_along_the_embedding(classifier_input) -> None:
    network = tiny_network(classifier_input).eval()
    assert network(images())["type"].logit_slopes is None
    network.give_slopes()
    output = network(images())["type"]
    bias = network.head("type").classifier.bias
    if classifier_input == "embedding":
        torch.testing.assert_close(output.embedding @ output.logit_slopes.T + bias, output.logits)
    lengths = output.features.norm(dim=1) if classifier_input == "features" else torch.tensor(16.0)
    expected = network.head("type").classifier.weight * lengths.mean()
    torch.testing.assert_close(output.logit_slopes, expected)


def test_a_network_without_a_linear_head_gives_no_slopes() -> None:
    network = tiny_network(None)
    network.give_slopes()
    assert network(images())["type"].logit_slopes is None
