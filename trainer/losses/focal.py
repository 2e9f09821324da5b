"""Focal loss (Lin et al., ICCV 2017): well-classified samples count less.

Legend: N samples, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.losses.lazy_torch import functional, torch
from trainer.losses.softmax import SoftmaxSettings, SoftmaxTerm
from trainer.losses.spec import LossSpec

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FocalSettings(SoftmaxSettings):
    """Settings of focal loss."""

    name: str = "focal"

    gamma: float = 2.0
    """How much less well-classified samples count. 0 = softmax."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(0, "gamma")


def focal_loss(logits: Tensor, labels: Tensor, weights: Tensor | None, *, gamma: float) -> Tensor:
    """Return the mean of (1 - p)^gamma (-log p), p of the sample's class (Lin et al., ICCV 2017).

    Args:
        logits: (N, C) floating point; computed in float32.
        labels: (N,) int64 in [0, C).
        weights: (C,) float32, or None for 1 each. The sum is divided by the samples' weights.
        gamma: >= 0; 0 is `softmax_loss`.

    Returns:
        Scalar float32.
    """
    log_p = functional.log_softmax(logits.float(), dim=1).gather(1, labels[:, None]).squeeze(1)
    # 1 - p by expm1, and not quite 0: there the slope of a power below 1 is infinite.
    remainder = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    losses = -(remainder**gamma) * log_p
    if weights is None:
        return losses.mean()
    return (losses * weights[labels]).sum() / weights[labels].sum()


class FocalTerm(SoftmaxTerm):
    """Focal loss of the linear head."""

    def __init__(
        self, settings: FocalSettings, class_counts: np.ndarray, device: torch.device
    ) -> None:
        super().__init__(settings, class_counts, device)
        self._gamma = settings.gamma

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """`focal_loss` of the logits."""
        return focal_loss(logits, labels, weights, gamma=self._gamma)


SPEC = LossSpec(settings=FocalSettings, make_term=FocalTerm)
