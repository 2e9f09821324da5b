"""Notices when all embeddings become one point, which margin losses can do silently.

Legend: N samples, D embedding, K candidate clusters.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from trainer.losses.batch import ClusterComparison

logger = logging.getLogger(__name__)


class Observed(NamedTuple):
    """What the watch sees of a task's outputs."""

    embedding: Tensor
    """(N, D) unit rows."""
    projection: Tensor
    """(N, D) what BatchNorm made them of."""


_CHECKS_IN_A_ROW = 3

# A collapsed loss sits at its plateau up to the noise of a batch.
_AT_PLATEAU = 0.95

# Dispersions below which vectors are nearly one point. Healthy embeddings have 0.8 and more; what
# their BatchNorm is given 0.2 to 0.9 (transformers 0.01 at the start), and 0.00001 once collapsed.
_POINT = 0.02
_POINT_BEFORE_NORM = 0.001


def batch_dispersion(embeddings: Tensor) -> Tensor:
    """How far apart embeddings are: the share of their mean square that lies about their mean.

    For unit vectors that is the mean of 1 - cosine over all ordered pairs (a sample's pair with
    itself counts, as 0), without an (N, N) matrix.

    Args:
        embeddings: (N, D) floating point, N >= 1.

    Returns:
        Scalar float32 in [0, 1]: 0 = all are one point, 1 = their mean is 0.
    """
    rows = embeddings.detach().float()
    square, square_of_mean = rows.square().sum(dim=1).mean(), rows.mean(dim=0).square().sum()
    share = (1 - square_of_mean / square).clamp(min=0.0)
    return share.where(square > 0, 0.0)


def rivals(rows: Tensor, class_of: Tensor, log_prior: Tensor | None) -> tuple[Tensor, Tensor]:
    """Count the candidate clusters that each sample is compared with.

    Args:
        rows: (N,) int64 which candidate is each sample's own.
        class_of: (K,) int64 class of each candidate.
        log_prior: (K,) of each, as `clmle_loss` takes it; None for 0.

    Returns:
        Those of other classes (N,), where a candidate counts as exp(its prior - the own one's), and
        those of the same class (N,); float64 on the CPU.
    """
    rows, class_of = rows.cpu(), class_of.cpu()
    prior = torch.zeros(len(class_of)) if log_prior is None else log_prior.detach().cpu()
    weights = (prior.double() - prior.max()).exp()
    of_class = torch.bincount(class_of, weights)
    own = class_of[rows]
    other = (of_class.sum() - of_class[own]) / weights[rows]
    return other, torch.bincount(class_of)[own].double() - 1


def plateau_loss(
    *,
    num_other: Tensor,
    num_same: Tensor,
    scale: float,
    margin_between_rad: Tensor | float,
    margin_within_rad: float,
    weight_within: float,
) -> float:
    """The CLMLE loss when every embedding and centroid is the same point.

    Args:
        num_other: (N,) float64 candidate clusters of other classes of each sample (`rivals`).
        num_same: (N,) float64 candidate clusters of its class other than its own.
        scale: s of the loss.
        margin_between_rad: annealed margin, radians; a number or (N,).
        margin_within_rad: annealed margin, radians.
        weight_within: weight of the within-class part.
    """

    def term(num_candidates: Tensor, margin_rad: Tensor | float) -> float:
        margins = torch.as_tensor(margin_rad, dtype=torch.float64, device="cpu")
        exponent = scale * (1 - margins.cos())
        # log(1 + n e^x) where e^x may overflow.
        terms = exponent + (num_candidates + (-exponent).exp()).log()
        return float(terms.where(num_candidates > 0, 0.0).mean())

    between, within = term(num_other, margin_between_rad), term(num_same, margin_within_rad)
    return between + weight_within * within


def plateau_of(comparison: ClusterComparison) -> float:
    """`plateau_loss` of a micro-batch's candidates and annealed margins."""
    other, same = rivals(comparison.rows, comparison.class_of, comparison.log_prior)
    return plateau_loss(
        num_other=other,
        num_same=same,
        scale=comparison.scale,
        margin_between_rad=comparison.margin_between_rad,
        margin_within_rad=comparison.margin_within_rad,
        weight_within=comparison.weight_within,
    )


class CollapseDetector:
    """Warns once when the embeddings have collapsed, and again only after a recovery."""

    def __init__(self, *, window: int) -> None:
        """Start with an empty history.

        Args:
            window: updates in a row that must look collapsed, >= 1.
        """
        self._recent: deque[bool] = deque(maxlen=window)
        self._warned = False

    def update(
        self, embedding: float, before_norm: float, loss: float = 0.0, plateau: float = 0.0
    ) -> str | None:
        """Check one more batch.

        It looks collapsed where BatchNorm was given nearly one point, regardless of what it makes
        of that noise; or where the embeddings are nearly one and the loss is at its plateau (or
        above).

        Args:
            embedding: `batch_dispersion` of the embeddings.
            before_norm: that of what BatchNorm made them of.
            loss: its CLMLE loss, without the softmax term; 0 for a loss without a known plateau.
            plateau: `plateau_loss` of its shape and the annealed margins; 0 without one.

        Returns:
            What happened and what to change, or None.
        """
        at_plateau = embedding < _POINT and loss >= _AT_PLATEAU * plateau
        self._recent.append(before_norm < _POINT_BEFORE_NORM or at_plateau)
        if not self._recent[-1]:
            self._warned = False
        if self._warned or len(self._recent) < (self._recent.maxlen or 0) or not all(self._recent):
            return None
        self._warned = True
        return (
            f"the embeddings have collapsed to one point: dispersion {embedding:.4f} (expected "
            f"above {_POINT}), before BatchNorm {before_norm:.6f} (expected above "
            f"{_POINT_BEFORE_NORM}), {len(self._recent)} checks in a row. Continuing rarely helps: "
            "start again with a lower optim.learning_rate, smaller margins (loss.margin_between, "
            "loss.margin) that grow longer (loss.margin_anneal), or loss.weight_softmax 1"
        )


class CollapseWatch:
    """One detector a task; looks at one micro-batch before each row of metrics."""

    def __init__(self) -> None:
        self._detectors: dict[str, CollapseDetector] = {}

    def measure(
        self,
        observed: Mapping[str, Observed],
        comparisons: Mapping[str, ClusterComparison],
    ) -> dict[str, float]:
        """Measure, and warn once when a task has collapsed.

        Args:
            observed: task -> its outputs for a micro-batch.
            comparisons: task -> what CLMLE compared them with.

        Returns:
            Metrics: the dispersion of embeddings, before BatchNorm and after, and the loss that a
            collapse would have.
        """
        measured = {}
        for task, output in observed.items():
            after = float(batch_dispersion(output.embedding))
            before = float(batch_dispersion(output.projection))
            measured[f"embedding/{task}/dispersion"] = after
            measured[f"embedding/{task}/dispersion_before_norm"] = before
            loss = plateau = 0.0
            if task in comparisons:
                loss, plateau = float(comparisons[task].loss), plateau_of(comparisons[task])
                measured[f"train/{task}/plateau"] = plateau
            detector = self._detectors.setdefault(task, CollapseDetector(window=_CHECKS_IN_A_ROW))
            message = detector.update(after, before, loss, plateau)
            if message:
                logger.warning("task %s: %s", task, message)
        return measured
