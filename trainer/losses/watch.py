"""Watches for collapsed embeddings while training, and says what to change.

Legend: B images of a micro-batch, D embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

from trainer.losses.batch import Candidates
from trainer.losses.collapse import CollapseDetector, batch_dispersion, plateau_loss, rivals
from trainer.losses.loss_section import LossConfig

logger = logging.getLogger(__name__)

_CHECKS_IN_A_ROW = 3


class CollapseWatch:
    """One detector a task; looks at one micro-batch before each row of metrics."""

    def __init__(self, loss: LossConfig) -> None:
        self._loss = loss
        self._detectors: dict[str, CollapseDetector] = {}

    def measure(
        self,
        embeddings: Mapping[str, torch.Tensor],
        projections: Mapping[str, torch.Tensor],
        candidates: Mapping[str, Candidates],
        metrics: Mapping[str, float],
        *,
        margin_factor: float,
    ) -> dict[str, float]:
        """Measure, and warn once when a task has collapsed.

        Args:
            embeddings: task -> (B, D) unit rows of a micro-batch.
            projections: task -> (B, D) what BatchNorm made them of.
            candidates: task -> the clusters that CLMLE compared them with.
            metrics: the row being written, with the loss parts.
            margin_factor: share of the full margins in force.

        Returns:
            Further metrics: the dispersion of both, the loss that a collapse would have.
        """
        measured = {}
        for task in embeddings:
            after = float(batch_dispersion(embeddings[task]))
            before = float(batch_dispersion(projections[task]))
            measured[f"embedding/{task}/dispersion"] = after
            measured[f"embedding/{task}/dispersion_before_norm"] = before
            loss = plateau = 0.0
            if task in candidates:
                plateau = self._plateau(candidates[task], margin_factor)
                measured[f"train/{task}/plateau"] = plateau
                loss = metrics[f"train/{task}/between"]
                loss += self._loss.weight_within * metrics[f"train/{task}/within"]
            detector = self._detectors.setdefault(task, CollapseDetector(window=_CHECKS_IN_A_ROW))
            message = detector.update(after, before, loss, plateau)
            if message:
                logger.warning("task %s: %s", task, message)
        return measured

    def _plateau(self, candidates: Candidates, margin_factor: float) -> float:
        other, same = rivals(candidates.rows, candidates.class_of, candidates.log_prior)
        return plateau_loss(
            num_other=other,
            num_same=same,
            scale=self._loss.scale,
            margin_between_rad=candidates.margin_between,
            margin_within_rad=self._loss.margin_within * margin_factor,
            weight_within=self._loss.weight_within,
        )
