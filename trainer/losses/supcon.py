"""Supervised contrastive loss (Khosla et al., NeurIPS 2020): every pair of a class attracts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.losses.batch_pairs import PairTerm
from trainer.losses.lazy_torch import torch
from trainer.losses.softmax import JointSettings
from trainer.losses.spec import LossSpec


@dataclass(frozen=True, kw_only=True)
class SupConSettings(JointSettings):
    """Settings of the supervised contrastive loss."""

    name: str = "supcon"

    scale: float = 16.0
    """Sharpness: 1 / temperature."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_above_0("scale")


def make_term(settings: SupConSettings, class_counts: np.ndarray, device: torch.device) -> PairTerm:
    """The supervised contrastive loss of a batch."""
    from pytorch_metric_learning import losses

    del class_counts, device
    return PairTerm(settings.name, losses.SupConLoss(temperature=1 / settings.scale))


SPEC = LossSpec(
    settings=SupConSettings, make_term=make_term, sampling="class_groups", readout="ncm"
)
