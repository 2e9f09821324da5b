"""The collapse detector speaks when it should, and only then."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.helpers import reference_trainer as reference
from trainer.losses.clmle import clmle_loss
from trainer.losses.collapse import CollapseDetector, batch_dispersion, plateau_loss, rivals


def test_dispersion_is_the_mean_distance_of_all_pairs() -> None:
    rows = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) + 0.5
    embeddings = functional.normalize(rows, dim=1)
    expected = reference.mean_pair_distance(embeddings)
    assert float(batch_dispersion(embeddings)) == pytest.approx(expected, abs=1e-6)


def test_dispersion_at_its_ends() -> None:
    point = functional.normalize(torch.ones(1, 5), dim=1)
    assert float(batch_dispersion(point.expand(8, 5))) == pytest.approx(0, abs=1e-6)
    assert float(batch_dispersion(torch.cat([point, -point]))) == pytest.approx(1)
    assert float(batch_dispersion(point)) >= 0
    assert float(batch_dispersion(torch.zeros(3, 5))) == 0
    assert float(batch_dispersion(100 * torch.cat([point, -point]))) == pytest.approx(1)


@pytest.mark.parametrize("sizes", [None, (900.0, 40.0, 3.0, 70.0, 70.0, 1.0)])
def test_plateau_is_the_loss_of_collapsed_embeddings(sizes: tuple[float, ...] | None) -> None:
    point = functional.normalize(torch.ones(1, 5, dtype=torch.float64), dim=1)
    prior = None if sizes is None else torch.tensor(sizes, dtype=torch.float64).log()
    settings = {
        "scale": 16.0,
        "margin_between_rad": 0.35,
        "margin_within_rad": 0.1,
        "weight_within": 0.2,
    }
    class_of = torch.tensor([0, 0, 0, 1, 1, 2])
    rows = torch.tensor([0, 0, 0, 1, 3, 3, 5])
    cosine = point.expand(7, 5) @ point.expand(6, 5).T
    terms = clmle_loss(rows, cosine, class_of, **settings, log_prior=prior)
    other, same = rivals(rows, class_of, prior)
    assert same.tolist() == [2, 2, 2, 2, 1, 1, 0]
    if prior is None:
        assert other.tolist() == [3, 3, 3, 3, 4, 4, 5]
    expected = plateau_loss(num_other=other, num_same=same, **settings)
    assert float(terms.loss) == pytest.approx(expected, abs=1e-4)


def test_plateau_without_candidates_and_with_large_scales() -> None:
    margins = {"margin_between_rad": 1.5, "margin_within_rad": 0.1, "weight_within": 1.0}
    none, four = torch.zeros(2).double(), torch.full((2,), 4.0).double()
    assert plateau_loss(num_other=none, num_same=none, scale=16.0, **margins) == 0
    assert plateau_loss(num_other=four, num_same=none, scale=1e4, **margins) == pytest.approx(
        9294, rel=1e-3
    )


POINT, DISPERSED = 0.01, 0.9
"""Dispersions of embeddings."""


def test_detector_speaks_once_after_a_whole_window() -> None:
    detector = CollapseDetector(window=3)
    said = [detector.update(POINT, DISPERSED, 2.0, 2.0) for _ in range(6)]
    assert [text is not None for text in said] == [False, False, True, False, False, False]
    assert said[2] is not None
    for remedy in ("loss.margin_anneal", "loss.margin_between", "optim.learning_rate"):
        assert remedy in said[2]


@pytest.mark.parametrize(
    ("embedding", "loss"), [(DISPERSED, 2.0), (POINT, 1.0)], ids=["dispersed", "below the plateau"]
)
def test_detector_needs_both_signs_behind_batch_norm(embedding: float, loss: float) -> None:
    detector = CollapseDetector(window=2)
    assert all(detector.update(embedding, DISPERSED, loss, 2.0) is None for _ in range(10))


def test_one_point_before_batch_norm_is_sign_enough() -> None:
    detector = CollapseDetector(window=2)
    said = [detector.update(DISPERSED, 1e-5, 1.0, 2.0) is not None for _ in range(3)]
    assert said == [False, True, False]


def test_one_good_batch_starts_the_window_anew() -> None:
    detector = CollapseDetector(window=3)
    embeddings = [POINT, POINT, DISPERSED, POINT, POINT, POINT]
    said = [detector.update(e, DISPERSED, 2.0, 2.0) is not None for e in embeddings]
    assert said == [False] * 5 + [True]


def test_detector_speaks_again_after_a_recovery() -> None:
    detector = CollapseDetector(window=1)
    embeddings = (POINT, POINT, DISPERSED, POINT)
    said = [detector.update(e, DISPERSED, 2.0, 2.0) is not None for e in embeddings]
    assert said == [True, False, False, True]
