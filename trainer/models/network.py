"""A backbone, and for each task an embedding head and a classifier.

Legend: B images, C classes of a task, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from trainer.models.backbone import Backbone

ClassifierInput = Literal["features", "embedding"]

# The logits of a bare unit embedding are too small for cross-entropy ever to become small.
_EMBEDDING_SCALE = 16.0


class TaskOutput(NamedTuple):
    """One task's outputs. A tuple, because ZeRO 3 finds the tensors in it only then."""

    embedding: Tensor
    """(B, D) float32 unit rows."""
    features: Tensor
    """(B, D) float32: the embedding before normalisation."""
    logits: Tensor | None
    """(B, C) float32, or None without a classifier."""


class TaskHead(nn.Module):
    """Backbone features -> a task's embedding and logits."""

    def __init__(
        self,
        num_features: int,
        *,
        embedding_dim: int,
        num_classes: int,
        classifier_input: ClassifierInput | None,
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(num_features, embedding_dim, bias=False)
        self.norm = nn.BatchNorm1d(embedding_dim)
        self.classifier = nn.Linear(embedding_dim, num_classes) if classifier_input else None
        self._classifies_embedding = classifier_input == "embedding"

    def forward(self, features: Tensor) -> TaskOutput:
        """(B, num_features) -> the task's outputs."""
        projected: Tensor = self.norm(self.projection(features))
        embedding = functional.normalize(projected.float(), dim=1)
        logits = None
        if self.classifier is not None:
            scaled = (embedding * _EMBEDDING_SCALE).to(projected.dtype)
            logits = self.classifier(scaled if self._classifies_embedding else projected).float()
        return TaskOutput(embedding, projected.float(), logits)


class Network(nn.Module):
    """Images -> embeddings on the unit sphere, for one task or many."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        channels: int,
        input_size: int,
        embedding_dim: int,
        num_classes: Mapping[str, int],
        classifier_input: ClassifierInput | None,
    ) -> None:
        """Put heads on a backbone.

        Args:
            backbone: shared by all tasks.
            channels: of the images it takes; kept for those who prepare them.
            input_size: side of these images, in pixels.
            embedding_dim: D, the same for each task.
            num_classes: task -> C.
            classifier_input: what the classifiers see: the embedding before normalisation
                ("features") or after it, scaled ("embedding"). None = no classifiers.
        """
        super().__init__()
        self.channels = channels
        self.input_size = input_size
        self.embedding_dim = embedding_dim
        self.num_classes = dict(num_classes)
        self.has_classifier = classifier_input is not None
        self.backbone = backbone
        # The prefix frees task names such as "type", which are attributes of a ModuleDict.
        self.heads = nn.ModuleDict(
            {
                f"task_{task}": TaskHead(
                    backbone.num_features,
                    embedding_dim=embedding_dim,
                    num_classes=count,
                    classifier_input=classifier_input,
                )
                for task, count in num_classes.items()
            }
        )

    def forward(self, images: Tensor) -> dict[str, TaskOutput]:
        """Every task's outputs: (B, channels, input_size, input_size) -> task -> outputs."""
        features = self.backbone(images)
        return {task: self.heads[f"task_{task}"](features) for task in self.num_classes}
