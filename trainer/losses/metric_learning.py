"""The losses that pytorch-metric-learning has, as terms of ours.

The library supplies the mathematics. Class vectors are weights of the network, so that DeepSpeed
trains and saves them like all others, and any job reads them out without the library.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn
from torch.func import functional_call

from trainer.losses.batch import TaskBatch, TermValue
from trainer.losses.clmle import angular_margin_cosine
from trainer.losses.loss_section import LossConfig

# Of SoftTriple's vote among the vectors of a class, as its authors set it.
_SOFT_TRIPLE_GAMMA = 0.1


class _OursBeyondTheMargin:
    """Takes our cos(theta + margin): its slope is finite at theta = 0, the library's is not."""

    margin: float

    def modify_cosine_of_target_classes(self, cosine: Tensor) -> Tensor:
        return angular_margin_cosine(cosine, self.margin)


class _ArcFace(_OursBeyondTheMargin, losses.ArcFaceLoss):  # type: ignore[misc]
    pass


class _SubCenterArcFace(_OursBeyondTheMargin, losses.SubCenterArcFaceLoss):  # type: ignore[misc]
    pass


class ClassVectorTerm:
    """Losses on the angles to class vectors: ArcFace, CosFace, sub-centre ArcFace, SoftTriple."""

    def __init__(self, loss: LossConfig, class_counts: np.ndarray, device: torch.device) -> None:
        del device  # it holds no tensors
        self._name = loss.name
        self._margin = loss.or_default("margin")
        self._anneals = loss.name != "softtriple"
        # On no device: its own class vectors stand in for the network's, which each call brings.
        with torch.device("meta"):
            self._library: Any = _class_vector_loss(loss, len(class_counts))
        ((self._vectors_name, _),) = self._library.named_parameters()

    def __call__(self, batch: TaskBatch) -> TermValue:
        """The loss of the batch's embeddings against the network's class vectors."""
        vectors = batch.output.class_vectors
        assert vectors is not None, "the network was built without class vectors"
        self._library.margin = self._margin * (batch.margin_factor if self._anneals else 1.0)
        value = functional_call(
            self._library, {self._vectors_name: vectors.T}, (batch.output.embedding, batch.labels)
        )
        return TermValue(value, {self._name: value})


class PairTerm:
    """Losses on pairs and triplets of the batch: triplet, supervised contrastive."""

    def __init__(self, loss: LossConfig, class_counts: np.ndarray, device: torch.device) -> None:
        del class_counts, device
        self._name = loss.name
        self._miner: nn.Module | None = None
        self._library: nn.Module
        if loss.name == "supcon":
            self._library = losses.SupConLoss(temperature=1 / loss.scale)
            return
        margin = loss.or_default("margin")
        self._library = losses.TripletMarginLoss(margin=margin)
        if loss.mining == "batch_hard":
            self._miner = miners.BatchHardMiner()
        else:
            self._miner = miners.TripletMarginMiner(margin=margin, type_of_triplets="semihard")

    def __call__(self, batch: TaskBatch) -> TermValue:
        """The loss of the batch's embeddings; 0 where no two are of one class, or all are."""
        embedding, labels = batch.output.embedding, batch.labels
        mined = self._miner(embedding, labels) if self._miner is not None else None
        value = self._library(embedding, labels, mined)
        return TermValue(value, {self._name: value})


def _class_vector_loss(loss: LossConfig, num_classes: int) -> nn.Module:
    vectors_per_class = int(loss.or_default("vectors_per_class"))
    # The size of the embedding only shapes the stand-in.
    sizes = {"num_classes": num_classes, "embedding_size": 1}
    made: nn.Module
    if loss.name == "arcface":
        made = _ArcFace(scale=loss.scale, **sizes)
    elif loss.name == "cosface":
        made = losses.CosFaceLoss(scale=loss.scale, **sizes)
    elif loss.name == "subcenter_arcface":
        made = _SubCenterArcFace(scale=loss.scale, sub_centers=vectors_per_class, **sizes)
    else:
        made = losses.SoftTripleLoss(
            centers_per_class=vectors_per_class,
            la=loss.scale,
            gamma=_SOFT_TRIPLE_GAMMA,
            **sizes,
        )
    return made
