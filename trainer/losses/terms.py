"""From the loss section to what is minimised: the one place that knows which loss is which.

A term is a pure function of a micro-batch. All its randomness and all its weights are the
network's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trainer.losses.batch import Candidates, TaskBatch, TermValue
from trainer.losses.class_margins import ldam_margins, rare_class_margins
from trainer.losses.clmle import candidate_cosines, clmle_loss
from trainer.losses.isda import isda_offsets
from trainer.losses.lmle import lmle_loss, lmle_margins
from trainer.losses.loss_facts import LOSSES, LossName
from trainer.losses.loss_section import LossConfig
from trainer.losses.magnet import magnet_loss
from trainer.losses.metric_learning import ClassVectorTerm, PairTerm
from trainer.losses.softmax import (
    class_weights,
    focal_loss,
    log_priors,
    margin_softmax_loss,
    softmax_loss,
)


class Term(Protocol):
    """One part of the loss of a task."""

    def __call__(self, batch: TaskBatch) -> TermValue:
        """The mean over the images of a micro-batch."""


TermFactory = Callable[[LossConfig, np.ndarray, torch.device], Term]
"""(loss section, (C,) training images of each class, device) -> term."""


class SoftmaxTerm:
    """Cross-entropy of the linear head: plain, focal, weighted, adjusted."""

    def __init__(
        self, loss: LossConfig, class_counts: np.ndarray, device: torch.device, weight: float = 1.0
    ) -> None:
        self._weight = weight
        self._gamma = loss.focal_gamma if loss.name == "focal" else 0.0
        self._class_weights = _class_weights(loss, class_counts, device)
        self._spread = loss.spread
        tau = loss.or_default("logit_adjustment")
        self._offsets = tau * log_priors(class_counts).to(device) if tau else None

    def __call__(self, batch: TaskBatch) -> TermValue:
        """Cross-entropy of the batch's logits."""
        logits = batch.output.logits
        assert logits is not None, "the network was built without a classifier"
        if self._offsets is not None:
            logits = logits.float() + self._offsets
        if batch.covariance is not None:
            slopes = batch.output.logit_slopes
            assert slopes is not None, "the network was not told to give slopes"
            offsets = isda_offsets(slopes, batch.covariance, batch.labels)
            logits = logits + self._spread * batch.isda_factor * offsets
        weights = self._class_weights if batch.reweighted else None
        if self._gamma:
            value = focal_loss(logits, batch.labels, weights, gamma=self._gamma)
        else:
            value = softmax_loss(logits, batch.labels, weights)
        return TermValue(self._weight * value, {"softmax": value})


class RetrainedTerm:
    """Cross-entropy of the second classifier, alone: cRT (Kang et al., ICLR 2020)."""

    def __call__(self, batch: TaskBatch) -> TermValue:
        """Plain, since its batches are class-balanced."""
        logits = batch.output.retrained_logits
        assert logits is not None, "the network was built without a second classifier"
        value = softmax_loss(logits, batch.labels, None)
        return TermValue(value, {"retrained": value})


class LdamTerm:
    """Softmax over cosines, with margins that are larger for rare classes."""

    def __init__(self, loss: LossConfig, class_counts: np.ndarray, device: torch.device) -> None:
        self._scale = loss.scale
        self._margins = ldam_margins(class_counts, loss.or_default("margin")).to(device)
        self._class_weights = _class_weights(loss, class_counts, device)

    def __call__(self, batch: TaskBatch) -> TermValue:
        """LDAM of the batch's cosines to the class vectors."""
        cosines = batch.output.logits
        assert cosines is not None, "the network was built without class vectors"
        value = margin_softmax_loss(
            cosines.float(),
            batch.labels,
            self._class_weights if batch.reweighted else None,
            margins=self._margins,
            scale=self._scale,
        )
        return TermValue(value, {"ldam": value})


class ClmleTerm:
    """Angular margins to clusters, between and within classes."""

    def __init__(self, loss: LossConfig, class_counts: np.ndarray, device: torch.device) -> None:
        self._loss = loss
        self._margins_of_class: Tensor | None = None
        if loss.margin_rare_exponent:
            self._margins_of_class = rare_class_margins(
                class_counts, loss.margin_between, exponent=loss.margin_rare_exponent
            ).to(device)

    def __call__(self, batch: TaskBatch) -> TermValue:
        """CLMLE of the batch, with the batch's own means in the clusters' centroids."""
        table, clusters = batch.clusters
        rows, cosine, which = candidate_cosines(
            batch.output.embedding,
            clusters,
            table.centroids,
            candidates=self._loss.candidates,
            momentum=self._loss.mean_momentum,
        )
        class_of, tau = table.class_of[which], self._loss.cluster_prior
        log_prior = tau * table.sizes[which].float().log() if tau else None
        margin: Tensor | float = self._loss.margin_between
        if self._margins_of_class is not None:
            margin = self._margins_of_class[batch.labels]
        margin = margin * batch.margin_factor
        terms = clmle_loss(
            cosine,
            rows,
            class_of,
            scale=self._loss.scale,
            margin_between_rad=margin,
            margin_within_rad=self._loss.margin_within * batch.margin_factor,
            weight_within=self._loss.weight_within,
            log_prior=log_prior,
        )
        parts = {"between": terms.between, "within": terms.within}
        return TermValue(terms.loss, parts, Candidates(rows, class_of, log_prior, margin))


class MagnetTerm:
    """Clusters of the batch attract their images, and repel those of other classes."""

    def __init__(self, loss: LossConfig, class_counts: np.ndarray, device: torch.device) -> None:
        del class_counts, device
        self._alpha = loss.or_default("margin")

    def __call__(self, batch: TaskBatch) -> TermValue:
        """Magnet loss of the batch, by the table's clusters."""
        _, clusters = batch.clusters
        value = magnet_loss(batch.output.embedding, clusters, batch.labels, alpha=self._alpha)
        return TermValue(value, {"magnet": value})


class LmleTerm:
    """The triple-header hinge on quintuplets."""

    def __init__(self, loss: LossConfig, class_counts: np.ndarray, device: torch.device) -> None:
        self._share = loss.or_default("margin")
        self._class_counts = torch.as_tensor(class_counts).to(device)

    def __call__(self, batch: TaskBatch) -> TermValue:
        """LMLE of the batch, by the table's clusters."""
        table, clusters = batch.clusters
        margins = lmle_margins(table.sizes, table.class_of, self._class_counts, share=self._share)
        value = lmle_loss(batch.output.embedding, clusters, batch.labels, margins[clusters])
        return TermValue(value, {"lmle": value})


FACTORIES: dict[LossName, TermFactory] = {
    "clmle": ClmleTerm,
    "softmax": SoftmaxTerm,
    "balanced_softmax": SoftmaxTerm,
    "focal": SoftmaxTerm,
    "ldam": LdamTerm,
    "arcface": ClassVectorTerm,
    "cosface": ClassVectorTerm,
    "subcenter_arcface": ClassVectorTerm,
    "softtriple": ClassVectorTerm,
    "triplet": PairTerm,
    "supcon": PairTerm,
    "magnet": MagnetTerm,
    "lmle": LmleTerm,
}


def make_terms(loss: LossConfig, class_counts: np.ndarray, device: torch.device) -> list[Term]:
    """The terms whose sum is minimised for a task.

    Args:
        loss: the loss section.
        class_counts: (C,) training images of each class of the task.
        device: where the network's outputs are.

    Returns:
        The loss's own term; after it, where `loss.weight_softmax` asks for it, a `SoftmaxTerm`.
    """
    terms = [FACTORIES[loss.name](loss, class_counts, device)]
    joint = loss.or_default("weight_softmax")
    if LOSSES[loss.name].head == "joint" and joint:
        terms.append(SoftmaxTerm(loss, class_counts, device, weight=joint))
    return terms


def _class_weights(
    loss: LossConfig, class_counts: np.ndarray, device: torch.device
) -> Tensor | None:
    if loss.class_weight == "none":
        return None
    return class_weights(class_counts, loss.class_weight, beta=loss.class_weight_beta).to(device)
