"""CosFace (Wang et al., CVPR 2018): an additive margin on the cosine to the own class's vector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.losses.class_vectors import ClassVectorSettings, ClassVectorTerm, stand_in
from trainer.losses.lazy_torch import torch
from trainer.losses.spec import LossSpec


@dataclass(frozen=True, kw_only=True)
class CosFaceSettings(ClassVectorSettings):
    """Settings of CosFace."""

    name: str = "cosface"

    margin: float = 0.35
    """Margin, as a difference of cosines."""

    margin_anneal: float = 0.5
    """Share of the training run over which the margin grows linearly from 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(0, "margin")
        self._require_share("margin_anneal")


def make_term(
    settings: CosFaceSettings, class_counts: np.ndarray, device: torch.device
) -> ClassVectorTerm:
    """CosFace against the network's class vectors."""
    from pytorch_metric_learning import losses

    del device  # it holds no tensors
    with stand_in():
        library = losses.CosFaceLoss(
            num_classes=len(class_counts), embedding_size=1, scale=settings.scale
        )
    return ClassVectorTerm(
        settings.name, library, margin=settings.margin, margin_anneal=settings.margin_anneal
    )


SPEC = LossSpec(settings=CosFaceSettings, make_term=make_term, head="cosine")
