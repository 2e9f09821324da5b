"""SoftTriple (Qian et al., ICCV 2019): several vectors a class, which vote with soft weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.losses.class_vectors import ClassVectorSettings, ClassVectorTerm, stand_in
from trainer.losses.lazy_torch import torch
from trainer.losses.spec import LossSpec

# Of the vote among the vectors of a class, as its authors set it.
_GAMMA = 0.1


@dataclass(frozen=True, kw_only=True)
class SoftTripleSettings(ClassVectorSettings):
    """Settings of SoftTriple."""

    name: str = "softtriple"

    margin: float = 0.01
    """Margin, as a difference of similarities."""

    vectors_per_class: int = 10
    """Trained vectors that stand for each class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(0, "margin")
        self._require_at_least(1, "vectors_per_class")


def make_term(
    settings: SoftTripleSettings, class_counts: np.ndarray, device: torch.device
) -> ClassVectorTerm:
    """SoftTriple against the network's class vectors."""
    from pytorch_metric_learning import losses

    del device  # it holds no tensors
    with stand_in():
        library = losses.SoftTripleLoss(
            num_classes=len(class_counts),
            embedding_size=1,
            centers_per_class=settings.vectors_per_class,
            la=settings.scale,
            gamma=_GAMMA,
        )
    return ClassVectorTerm(settings.name, library, margin=settings.margin, margin_anneal=0.0)


SPEC = LossSpec(settings=SoftTripleSettings, make_term=make_term, head="cosine")
