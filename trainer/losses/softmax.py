"""Cross-entropy of a linear head, and its usual forms against imbalance.

Legend: N samples, B images of a micro-batch, D embedding, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from clustering.settings import changed
from data_shards.errors import ConfigError, require
from trainer.losses.batch import StepView, TaskBatch, TaskTable, TermValue
from trainer.losses.isda import isda_offsets, moved_covariance
from trainer.losses.lazy_torch import functional, torch
from trainer.losses.spec import LossSettings, LossSpec, Term

if TYPE_CHECKING:
    from torch import Tensor

Weighting = Literal["inverse", "effective_number"]
ClassWeight = Literal["none", Weighting]

# Share of the covariance that a step leaves in place: so it averages about the last hundred steps.
_COVARIANCE_MOMENTUM = 0.99


@dataclass(frozen=True, kw_only=True)
class ClassWeightSettings(LossSettings):
    """Settings of losses in which classes have weights."""

    class_weight: ClassWeight = "none"
    """Weight of a class in the softmax term: 1, 1/n, or (1-b)/(1-b^n) (Cui et al., CVPR 2019)."""

    class_weight_beta: float = 0.999
    """b of class_weight effective_number."""

    reweight_from: float = 0.0
    """Share of the training run before which class_weight does not apply yet (deferred
    re-weighting, Cao et al., NeurIPS 2019)."""

    def __post_init__(self) -> None:
        self._require_share("reweight_from")
        beta = self.class_weight_beta
        require(0 <= beta < 1, "loss.class_weight_beta", "in [0, 1)", beta)

    def ignored_settings(self) -> list[str]:  # noqa: D102
        messages = super().ignored_settings()
        if self.class_weight != "effective_number":
            for name in changed(self, "class_weight_beta"):
                messages.append(f"loss.{name} is ignored: it needs effective_number")
        if self.reweight_from and self.class_weight == "none":
            messages.append("loss.reweight_from is ignored: loss.class_weight is none")
        return messages


@dataclass(frozen=True, kw_only=True)
class SoftmaxSettings(ClassWeightSettings):
    """Settings of the softmax term."""

    name: str = "softmax"

    logit_adjustment: float = 0.0
    """tau: log of the class's share of the training images, times tau, is added to the logits of
    the softmax term in training (Menon et al., ICLR 2021). 0 = nothing is added."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(0, "logit_adjustment")


@dataclass(frozen=True, kw_only=True)
class JointSettings(SoftmaxSettings):
    """Settings of losses on embeddings, which a softmax term may join."""

    weight_softmax: float = 0.0
    """w_softmax: weight of the joint cross-entropy of a linear head. 0 = no head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(0, "weight_softmax")

    @property
    def has_classifier(self) -> bool:  # noqa: D102
        return self.weight_softmax > 0

    def extra_terms(self, class_counts: np.ndarray, device: torch.device) -> list[Term]:
        """The softmax term, if it has a weight."""
        if not self.weight_softmax:
            return []
        return [SoftmaxTerm(self, class_counts, device, weight=self.weight_softmax)]

    @property
    def _of_softmax_term(self) -> tuple[str, ...]:
        """Settings that count in the softmax term only."""
        return ("class_weight", "logit_adjustment")

    def ignored_settings(self) -> list[str]:  # noqa: D102
        without_head = () if self.has_classifier else changed(self, *self._of_softmax_term)
        return [
            *(f"loss.{name} is ignored: loss.weight_softmax is 0" for name in without_head),
            *super().ignored_settings(),
        ]


def class_weights(
    class_counts: np.ndarray | Tensor, kind: Weighting, *, beta: float = 0.999
) -> Tensor:
    """Weigh classes by how rare they are.

    Args:
        class_counts: (C,) integers >= 1, training samples of each class.
        kind: "inverse" = 1/n; "effective_number" = (1 - beta) / (1 - beta^n),
            as in Cui et al., CVPR 2019: near 1/n for n << 1 / (1 - beta), constant far above.
        beta: in [0, 1), for "effective_number" only.

    Returns:
        (C,) float32 with mean 1 over the classes.

    Raises:
        ConfigError: a class has no sample, so its weight has no meaning.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    if (counts < 1).any():
        empty = int((counts < 1).nonzero()[0])
        raise ConfigError(
            f"class {empty} has no training sample, so loss.class_weight {kind} cannot weigh it; "
            "import the data again without that class, or set loss.class_weight to none"
        )
    if kind == "inverse":
        weights = 1 / counts
    else:
        weights = (1 - beta) / (1 - torch.as_tensor(beta, dtype=torch.float64) ** counts)
    return (weights / weights.mean()).float()


def softmax_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean cross-entropy, weighted by each sample's class.

    Args:
        logits: (N, C) floating point; computed in float32.
        labels: (N,) int64 in [0, C).
        weights: (C,) float32, or None for 1 each. The sum is divided by the samples' weights.

    Returns:
        Scalar float32.
    """
    return functional.cross_entropy(logits.float(), labels, weight=weights)


def log_priors(class_counts: np.ndarray | Tensor) -> Tensor:
    """Log share of each class in the training images, for balanced softmax and logit adjustment.

    Added to the logits in training, and in training only, it makes up for the imbalance (Ren et
    al., NeurIPS 2020; times tau, Menon et al., ICLR 2021).

    Args:
        class_counts: (C,) integers >= 0, at least one above 0.

    Returns:
        (C,) float32; -inf for a class without images, which then is never predicted in training.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    return (counts / counts.sum()).log().float()


def class_weights_of(
    settings: ClassWeightSettings, class_counts: np.ndarray, device: torch.device
) -> Tensor | None:
    """(C,) float32 weights that the settings ask for, on the device; None for 1 each."""
    if settings.class_weight == "none":
        return None
    beta = settings.class_weight_beta
    return class_weights(class_counts, settings.class_weight, beta=beta).to(device)


class SoftmaxTerm(Term):
    """Cross-entropy of the linear head: plain, weighted, adjusted."""

    in_warmup = True

    def __init__(
        self,
        settings: SoftmaxSettings,
        class_counts: np.ndarray,
        device: torch.device,
        *,
        weight: float = 1.0,
    ) -> None:
        self._settings = settings
        self._weight = weight
        self._class_weights = class_weights_of(settings, class_counts, device)
        tau = settings.logit_adjustment
        self._offsets = tau * log_priors(class_counts).to(device) if tau else None

    def logits(self, batch: TaskBatch) -> Tensor:
        """(B, C) float32 adjusted logits of the batch."""
        logits = batch.output.logits
        assert logits is not None, "the network was built without a classifier"
        return logits if self._offsets is None else logits.float() + self._offsets

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """What is minimised of the logits."""
        return softmax_loss(logits, labels, weights)

    def __call__(self, batch: TaskBatch) -> TermValue:
        """Cross-entropy of the batch's logits."""
        reweighted = batch.clock.is_past(self._settings.reweight_from)
        weights = self._class_weights if reweighted else None
        value = self.loss(self.logits(batch), batch.labels, weights)
        return TermValue(self._weight * value, {"softmax": value})


class AugmentedSoftmaxTerm(SoftmaxTerm):
    """The softmax term with implicit semantic data augmentation (`isda`).

    It follows one covariance of embeddings within their clusters, pooled over all clusters.
    """

    def __init__(
        self,
        settings: SoftmaxSettings,
        class_counts: np.ndarray,
        device: torch.device,
        *,
        weight: float,
        strength: float,
    ) -> None:
        super().__init__(settings, class_counts, device, weight=weight)
        self._strength = strength
        self._device = device
        self._covariance: Tensor | None = None
        """(D, D) float32; None before it is known."""

    @property
    def follows_steps(self) -> bool:  # noqa: D102
        return True

    def logits(self, batch: TaskBatch) -> Tensor:
        """(B, C) float32 logits, with what the covariance adds to each."""
        logits = super().logits(batch)
        if self._covariance is None:
            return logits
        slopes = batch.output.logit_slopes
        assert slopes is not None, "the network gives no slopes"
        offsets = isda_offsets(slopes, self._covariance, batch.labels)
        return logits + self._strength * batch.clock.isda_factor() * offsets

    def follow(self, step: StepView, table: TaskTable) -> None:  # noqa: D102
        self._covariance = moved_covariance(
            self._covariance, step.embeddings, step.centers, momentum=_COVARIANCE_MOMENTUM
        )

    def state(self, table: TaskTable | None) -> Mapping[str, Tensor]:
        """(D, D) float32 "covariance", once it is known."""
        return {} if self._covariance is None else {"covariance": self._covariance}

    def restore(self, state: Mapping[str, Tensor], table: TaskTable | None) -> None:  # noqa: D102
        if "covariance" in state:
            self._covariance = state["covariance"].to(self._device)


class RetrainedTerm(Term):
    """Cross-entropy of the second classifier, alone: cRT (Kang et al., ICLR 2020)."""

    def __call__(self, batch: TaskBatch) -> TermValue:
        """Plain, since its batches are class-balanced."""
        logits = batch.output.retrained_logits
        assert logits is not None, "the network was built without a second classifier"
        value = softmax_loss(logits, batch.labels, None)
        return TermValue(value, {"retrained": value})


SPEC = LossSpec(settings=SoftmaxSettings, make_term=SoftmaxTerm)
