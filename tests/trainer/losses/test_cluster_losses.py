"""Magnet and LMLE equal their equations, also where a batch lacks what they compare."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.helpers import reference_metric_learning as reference
from trainer.losses.lmle import lmle_loss, lmle_margins
from trainer.losses.magnet import magnet_loss

# (cluster, class) of each sample
BATCHES = {
    "several clusters a class": ([5, 5, 5, 2, 2, 9, 9, 7], [0, 0, 0, 0, 0, 1, 1, 2]),
    "two samples a cluster": ([0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 0, 0, 0, 0, 1, 1]),
    "one cluster a class": ([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]),
    "one sample a cluster": ([0, 1, 2, 3, 4], [0, 0, 1, 1, 2]),
    "one class": ([0, 0, 1, 1], [3, 3, 3, 3]),
    "one sample": ([4], [1]),
}


def unit_rows(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    rows = torch.randn(count, 4, generator=torch.Generator().manual_seed(2), dtype=dtype)
    return functional.normalize(rows, dim=1)


def some_margins(count: int) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=BATCHES)
def batch(request: pytest.FixtureRequest) -> tuple[list[int], list[int]]:
    return BATCHES[request.param]


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 5.0])
def test_magnet_equals_the_loops(batch, alpha: float, repeats: int) -> None:
    """With repeats: a small cluster gives each of its images twice."""
    clusters, labels = (batch[0] * repeats, batch[1] * repeats)
    rows = unit_rows(len(batch[0])).repeat(repeats, 1)
    got = magnet_loss(rows, torch.tensor(clusters), torch.tensor(labels), alpha=alpha)
    expected = reference.magnet(rows.double(), clusters, labels, alpha=alpha)
    assert float(got) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("repeats", [1, 2])
def test_lmle_equals_the_loops(batch, repeats: int) -> None:
    clusters, labels = (batch[0] * repeats, batch[1] * repeats)
    rows = unit_rows(len(batch[0])).repeat(repeats, 1)
    margins = some_margins(len(rows))
    got = lmle_loss(rows, torch.tensor(clusters), torch.tensor(labels), margins)
    expected = reference.lmle(rows, clusters, labels, margins.tolist())
    assert float(got) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("repeats", [1, 2])
def test_gradients_are_finite_and_reach_every_sample_that_is_compared(batch, repeats: int) -> None:
    clusters, labels = (torch.tensor(part * repeats) for part in batch)
    rows = unit_rows(len(batch[0])).repeat(repeats, 1).requires_grad_()
    single = len(set(clusters.tolist())) == len(batch[0])  # for Magnet they are far apart already
    several = len(set(labels.tolist())) > 1
    for loss, compares in (
        (magnet_loss(rows, clusters, labels, alpha=5.0), several and not single),
        (lmle_loss(rows, clusters, labels, torch.full((len(rows), 3), 2.0)), several),
    ):
        (gradient,) = torch.autograd.grad(loss, rows)
        assert torch.isfinite(gradient).all()
        if compares:
            assert (gradient.norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    "name", ["several clusters a class", "two samples a cluster", "one cluster a class"]
)
def test_gradients_are_those_of_the_equations(name: str) -> None:
    clusters, labels = (torch.tensor(part) for part in BATCHES[name])
    rows = unit_rows(len(clusters), torch.float64).requires_grad_()
    margins = some_margins(len(clusters)).double()
    assert torch.autograd.gradcheck(lambda r: magnet_loss(r, clusters, labels, alpha=1.0), rows)
    # A sample is the farthest of a cluster of its own: there the distance has a kink.
    if name != "several clusters a class":
        assert torch.autograd.gradcheck(lambda r: lmle_loss(r, clusters, labels, margins), rows)


def test_lmle_margins_are_chords_of_the_arcs_that_the_paper_allows() -> None:
    """100 images: class 0 has clusters of 30 and 50, class 1 one of 20."""
    margins = lmle_margins(
        torch.tensor([30, 50, 20]),
        torch.tensor([0, 0, 1]),
        torch.tensor([80, 20]),
        share=0.5,
    )
    expected = [[0.3, 0.5, 0.5], [0.5, 0.3, 0.5], [0.2, 0.0, 0.5]]
    for got, shares in zip(margins.tolist(), expected, strict=True):
        assert got == pytest.approx([2 * math.sin(math.pi * 0.5 * share) for share in shares])


def test_lmle_margins_never_ask_for_more_than_the_circle_has() -> None:
    margins = lmle_margins(
        torch.tensor([90, 10]), torch.tensor([0, 1]), torch.tensor([90, 10]), share=1.0
    )
    assert margins[:, 0].tolist() == pytest.approx([2.0, 2 * math.sin(math.pi * 0.1)])
    assert float(margins.max()) <= 2
