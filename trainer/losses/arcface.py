"""ArcFace (Deng et al., CVPR 2019): an additive angular margin to the vector of the own class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from data_shards.errors import require
from trainer.losses.class_vectors import (
    ClassVectorSettings,
    ClassVectorTerm,
    stand_in,
    with_our_margin,
)
from trainer.losses.lazy_torch import torch
from trainer.losses.spec import LossSpec


@dataclass(frozen=True, kw_only=True)
class ArcFaceSettings(ClassVectorSettings):
    """Settings of ArcFace."""

    name: str = "arcface"

    margin: float = 0.5
    """Angular margin in radians."""

    margin_anneal: float = 0.5
    """Share of the training run over which the margin grows linearly from 0. A full margin from
    the first step can collapse the embedding."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(0, "margin")
        self._require_share("margin_anneal")
        right_angle = math.pi / 2
        require(self.margin < right_angle, "loss.margin", "< pi/2 radians", self.margin)


def make_term(
    settings: ArcFaceSettings, class_counts: np.ndarray, device: torch.device
) -> ClassVectorTerm:
    """ArcFace against the network's class vectors."""
    from pytorch_metric_learning import losses

    del device  # it holds no tensors
    with stand_in():
        library = losses.ArcFaceLoss(
            num_classes=len(class_counts), embedding_size=1, scale=settings.scale
        )
    return ClassVectorTerm(
        settings.name,
        with_our_margin(library),
        margin=settings.margin,
        margin_anneal=settings.margin_anneal,
    )


SPEC = LossSpec(settings=ArcFaceSettings, make_term=make_term, head="cosine")
