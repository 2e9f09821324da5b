"""What decides a network's tensors. No torch: checkpoints are compared before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from trainer.config.run_config import RunConfig
from trainer.losses.registry import LOSSES

ClassifierInput = Literal["features", "embedding", "cosine"]
"""What a classifier sees: the embedding before normalisation ("features") or after it, scaled
("embedding"), or only its angles to trained vectors of the classes ("cosine")."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """All that is needed to build a network again."""

    backbone: str
    channels: int
    input_size: int
    embedding_dim: int
    classifier_input: ClassifierInput | None
    """What the classifier of each task sees; None if the loss uses none."""
    num_classes: dict[str, int]
    """Classes of each task, in the order of the heads."""
    vectors_per_class: int = 1
    """Vectors of each class, for a cosine classifier."""
    retrained_input: ClassifierInput | None = None
    """What the second classifier of each task sees; None without a classifier stage."""

    @classmethod
    def of(cls, config: RunConfig, num_classes: Mapping[str, int]) -> Self:
        """Describe the network that a configuration asks for."""
        model, loss = config.model, config.loss
        classifier_input: ClassifierInput | None = None
        if loss.has_classifier:
            cosine = LOSSES[loss.name].head == "cosine"
            classifier_input = "cosine" if cosine else model.classifier_input
        return cls(
            backbone=model.backbone,
            channels=model.channels,
            input_size=model.input_size,
            embedding_dim=model.embedding_dim,
            classifier_input=classifier_input,
            num_classes=dict(num_classes),
            vectors_per_class=loss.vectors_per_class,
            retrained_input=model.classifier_input if config.train.classifier_share else None,
        )

    def shares_backbone(self, other: NetworkSettings) -> bool:
        """Whether a network can start from the weights of another: heads may differ."""
        same = (self.backbone, self.channels) == (other.backbone, other.channels)
        # Another library's backbone may have tensors that go with the size of the images.
        return same and (":" not in self.backbone or self.input_size == other.input_size)
