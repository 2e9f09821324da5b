"""Triplet loss (Schroff et al., CVPR 2015), on triplets mined in the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainer.losses.batch_pairs import PairTerm
from trainer.losses.lazy_torch import torch
from trainer.losses.softmax import JointSettings
from trainer.losses.spec import LossSpec


@dataclass(frozen=True, kw_only=True)
class TripletSettings(JointSettings):
    """Settings of the triplet loss."""

    name: str = "triplet"

    margin: float = 0.2
    """By how much the negative must be farther than the positive, as a Euclidean distance."""

    mining: Literal["batch_hard", "semi_hard"] = "batch_hard"
    """Of each image, the farthest of its class and the nearest of another; or all triplets whose
    negative is farther than the positive, but not by the margin."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(0, "margin")


def make_term(
    settings: TripletSettings, class_counts: np.ndarray, device: torch.device
) -> PairTerm:
    """The triplet loss of a batch."""
    from pytorch_metric_learning import losses, miners

    del class_counts, device
    if settings.mining == "batch_hard":
        miner = miners.BatchHardMiner()
    else:
        miner = miners.TripletMarginMiner(margin=settings.margin, type_of_triplets="semihard")
    return PairTerm(settings.name, losses.TripletMarginLoss(margin=settings.margin), miner)


SPEC = LossSpec(
    settings=TripletSettings, make_term=make_term, sampling="class_groups", readout="ncm"
)
