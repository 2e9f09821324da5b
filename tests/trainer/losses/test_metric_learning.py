"""The library's losses, called as we call them, are those of the papers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.helpers import reference_metric_learning as reference
from trainer.losses.batch import TaskBatch
from trainer.losses.outputs import TaskOutput
from trainer.losses.registry import LOSSES
from trainer.losses.schedule import Clock
from trainer.losses.spec import Term

COUNTS = np.array([9, 5, 2])
LABELS = [0, 1, 2, 0, 1, 0, 0, 1]
CPU = torch.device("cpu")
SEVERAL_VECTORS = ("subcenter_arcface", "softtriple")


def term(name: str, *, vectors_per_class: int = 1, **settings: Any) -> Term:
    if name in SEVERAL_VECTORS:
        settings["vectors_per_class"] = vectors_per_class
    spec = LOSSES[name]
    return spec.make_term(spec.settings(**settings), COUNTS, CPU)


def unit_rows(count: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(rows, dim=1)


def batch(
    rows: torch.Tensor,
    labels: list[int],
    vectors: torch.Tensor | None = None,
    *,
    grown: float = 1.0,
) -> TaskBatch:
    return TaskBatch(
        output=TaskOutput(rows, rows, rows, None, vectors),
        labels=torch.tensor(labels),
        sample_ids=np.arange(len(labels)),
        table=None,
        clock=Clock(step=round(50 * grown), warmup_end=0, num_steps=100),  # margins grow to 50
    )


@pytest.mark.parametrize("grown", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["arcface", "subcenter_arcface", "cosface", "softtriple"])
def test_losses_on_class_vectors_equal_the_loops(name: str, grown: float) -> None:
    per_class = 2 if name in SEVERAL_VECTORS else 1
    made = term(name, scale=7.0, margin=0.4, vectors_per_class=per_class)
    rows, vectors = unit_rows(8), unit_rows(3 * per_class, seed=1)
    value = made(batch(rows, LABELS, vectors, grown=grown))
    if name == "cosface":
        expected = reference.cosface(rows, LABELS, vectors, margin=0.4 * grown, scale=7.0)
    elif name == "softtriple":
        expected = reference.soft_triple(rows, LABELS, vectors, margin=0.4, scale=7.0, v=2)
    else:
        expected = reference.arcface(
            rows, LABELS, vectors, margin=0.4 * grown, scale=7.0, v=per_class
        )
    assert float(value.loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert value.parts.keys() == {name}


@pytest.mark.parametrize("name", ["arcface", "subcenter_arcface", "cosface", "softtriple"])
def test_gradients_reach_images_and_class_vectors_and_stay_finite(name: str) -> None:
    """Also where an embedding lies on its class vector, or opposite to it."""
    rows = torch.cat([unit_rows(3), -unit_rows(3)]).requires_grad_()
    vectors = unit_rows(3).requires_grad_()
    made = term(name, vectors_per_class=1)
    made(batch(rows, [0, 1, 2] * 2, vectors)).loss.backward()
    for gradient in (rows.grad, vectors.grad):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("labels", [LABELS, [0, 1, 2, 3, 4, 5, 6, 7], [0] * 8])
@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize("name", ["batch_hard", "semi_hard", "supcon"])
def test_losses_on_pairs_equal_the_loops(name: str, twins: bool, labels: list[int]) -> None:
    rows = unit_rows(8)
    if twins:  # a rare class repeats its images
        rows[3] = rows[0]
    rows.requires_grad_()
    if name == "supcon":
        made = term("supcon", scale=7.0)
        expected = reference.supervised_contrastive(rows.detach(), labels, scale=7.0)
    else:
        made = term("triplet", margin=0.3, mining=name)
        twin = getattr(reference, f"{name}_triplet")
        expected = twin(rows.detach(), labels, margin=0.3)
    value = made(batch(rows, labels))
    assert float(value.loss.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    value.loss.backward()
    assert torch.isfinite(rows.grad).all()
