"""Sub-centre ArcFace (Deng et al., ECCV 2020): several vectors a class, the nearest one counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.losses.arcface import ArcFaceSettings
from trainer.losses.class_vectors import ClassVectorTerm, stand_in, with_our_margin
from trainer.losses.lazy_torch import torch
from trainer.losses.spec import LossSpec


@dataclass(frozen=True, kw_only=True)
class SubcenterArcFaceSettings(ArcFaceSettings):
    """Settings of sub-centre ArcFace."""

    name: str = "subcenter_arcface"

    vectors_per_class: int = 3
    """Trained vectors that stand for each class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "vectors_per_class")


def make_term(
    settings: SubcenterArcFaceSettings, class_counts: np.ndarray, device: torch.device
) -> ClassVectorTerm:
    """Sub-centre ArcFace against the network's class vectors."""
    from pytorch_metric_learning import losses

    del device  # it holds no tensors
    with stand_in():
        library = losses.SubCenterArcFaceLoss(
            num_classes=len(class_counts),
            embedding_size=1,
            scale=settings.scale,
            sub_centers=settings.vectors_per_class,
        )
    return ClassVectorTerm(
        settings.name,
        with_our_margin(library),
        margin=settings.margin,
        margin_anneal=settings.margin_anneal,
    )


SPEC = LossSpec(settings=SubcenterArcFaceSettings, make_term=make_term, head="cosine")
