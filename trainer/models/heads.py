"""The heads of a task: features -> embedding and logits.

Legend: B images, C classes of a task, D embedding, V vectors per class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.losses.outputs import TaskOutput
from trainer.run.network import ClassifierInput

# The logits of a bare unit embedding are too small for cross-entropy ever to become small.
_EMBEDDING_SCALE = 16.0


class LinearClassifier(nn.Linear):
    """A linear head that can also return its weights, from `forward`, where ZeRO 3 gathers them."""

    def forward(  # type: ignore[override]
        self, rows: Tensor, length: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, D) rows -> (B, C) logits; with a length also weights times length, (C, D) float32."""
        logits = functional.linear(rows, self.weight, self.bias)
        return logits, None if length is None else self.weight.float() * length


class ClassVectors(nn.Linear):
    """V trained unit vectors for each class; the cosine losses use them.

    A separate module, so that ZeRO 3 gathers the weights where they are read.
    """

    def __init__(self, embedding_dim: int, num_classes: int, vectors_per_class: int) -> None:
        super().__init__(embedding_dim, num_classes * vectors_per_class, bias=False)
        self._num_classes = num_classes
        # Directions uniform on the sphere (nn.Linear's default is uniform in a cube), lengths near
        # 1: the longer a vector, the slower it turns.
        nn.init.normal_(self.weight, std=embedding_dim**-0.5)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(B, D) unit rows -> (B, C) cosines to each class's nearest vector, and the vectors."""
        with torch.autocast(embedding.device.type, enabled=False):
            vectors = functional.normalize(self.weight.float(), dim=1)
            cosines = embedding.float() @ vectors.T
        return cosines.view(len(embedding), self._num_classes, -1).amax(dim=2), vectors


class TaskHead(nn.Module):
    """Backbone features -> a task's embedding and logits."""

    def __init__(
        self,
        num_features: int,
        *,
        embedding_dim: int,
        num_classes: int,
        classifier_input: ClassifierInput | None,
        vectors_per_class: int,
        retrained_input: ClassifierInput | None,
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(num_features, embedding_dim, bias=False)
        self.norm = nn.BatchNorm1d(embedding_dim)
        self.classifier: nn.Linear | None = None
        if classifier_input == "cosine":
            self.classifier = ClassVectors(embedding_dim, num_classes, vectors_per_class)
        elif classifier_input is not None:
            self.classifier = LinearClassifier(embedding_dim, num_classes)
        self.gives_slopes = False
        self._classifies_embedding = classifier_input == "embedding"
        self._retrains_embedding = retrained_input == "embedding"
        self.retrained = nn.Linear(embedding_dim, num_classes) if retrained_input else None

    def forward(self, features: Tensor) -> TaskOutput:
        """(B, num_features) -> the task's outputs."""
        projection = self.projection(features)
        projected: Tensor = self.norm(projection)
        embedding = functional.normalize(projected.float(), dim=1)
        logits = vectors = slopes = None
        if isinstance(self.classifier, ClassVectors):
            logits, vectors = self.classifier(embedding)
        elif self.classifier is not None:
            scaled = (embedding * _EMBEDDING_SCALE).to(projected.dtype)
            rows = scaled if self._classifies_embedding else projected
            length = rows.detach().float().norm(dim=1).mean() if self.gives_slopes else None
            logits, slopes = self.classifier(rows, length)
            logits = logits.float()
        return TaskOutput(
            embedding,
            projected.float(),
            projection.detach().float(),
            logits,
            vectors,
            logit_slopes=slopes,
        )

    @property
    def linear_classifier(self) -> nn.Linear | None:
        """The classifier, if its logits are linear in what it sees."""
        return None if isinstance(self.classifier, ClassVectors) else self.classifier

    def retrained_logits(self, output: TaskOutput) -> Tensor | None:
        """(B, C) float32 of the second classifier, without a gradient for what precedes it."""
        if self.retrained is None:
            return None
        rows = output.embedding * _EMBEDDING_SCALE if self._retrains_embedding else output.features
        logits: Tensor = self.retrained(rows.detach().to(self.retrained.weight.dtype)).float()
        return logits

    def tau_logits(self, output: TaskOutput, tau: float) -> Tensor | None:
        """(B, C) float32 of the linear classifier, with the norms of its weights normalised.

        Each class's weights are divided by their norm to the power of tau; biases are left out
        (Kang et al., ICLR 2020). None without a linear classifier.
        """
        if self.linear_classifier is None:
            return None
        weight = self.linear_classifier.weight.detach().float()
        normalised = weight / weight.norm(dim=1, keepdim=True) ** tau
        # Without `_EMBEDDING_SCALE`: a common factor changes no prediction.
        rows = output.embedding if self._classifies_embedding else output.features
        scores: Tensor = rows.float() @ normalised.T
        return scores
