"""A backbone, and for each task an embedding head and a classifier.

Legend: B images, C classes of a task, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.models.backbone import Backbone

ClassifierInput = Literal["features", "embedding", "cosine"]

# The logits of a bare unit embedding are too small for cross-entropy ever to become small.
_EMBEDDING_SCALE = 16.0


class TaskOutput(NamedTuple):
    """One task's outputs. A tuple, because ZeRO 3 finds the tensors in it only then."""

    embedding: Tensor
    """(B, D) float32 unit rows."""
    features: Tensor
    """(B, D) float32: the embedding before normalisation."""
    projection: Tensor
    """(B, D) float32 without a gradient: the features before BatchNorm, which would hide a collapse
    by spreading even one point out."""
    logits: Tensor | None
    """(B, C) float32, or None without a classifier. With class vectors, the cosine to the nearest
    vector of each class."""
    class_vectors: Tensor | None = None
    """(C x V, D) float32 unit rows, the V vectors of a class side by side; None without them."""
    retrained_logits: Tensor | None = None
    """(B, C) float32 of the second classifier, which is trained on a frozen network; None without
    one."""
    logit_slopes: Tensor | None = None
    """(C, D) float32: how fast each logit of the linear head grows along the embedding, at the
    batch's mean length of the features; None unless `Network.give_slopes` was called."""


class LinearClassifier(nn.Linear):
    """A linear head that can give its weights too, where ZeRO 3 gathers them."""

    def forward(  # type: ignore[override]
        self, rows: Tensor, length: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, D) rows -> (B, C) logits; with a length also (C, D) float32, the weights times it."""
        logits = functional.linear(rows, self.weight, self.bias)
        return logits, None if length is None else self.weight.float() * length


class ClassVectors(nn.Linear):
    """Trained unit vectors that stand for the classes, V for each; the losses on cosines use them.

    A module of its own, so that ZeRO 3 gathers the weights where they are read.
    """

    def __init__(self, embedding_dim: int, num_classes: int, vectors_per_class: int) -> None:
        super().__init__(embedding_dim, num_classes * vectors_per_class, bias=False)
        self._num_classes = num_classes
        # Directions evenly spread over the sphere (a Linear's own are a cube's), and of length 1 or
        # so: the longer a vector, the slower it turns.
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

    def retrained_logits(self, output: TaskOutput) -> Tensor | None:
        """(B, C) of the second classifier, without a gradient for anything before it."""
        if self.retrained is None:
            return None
        rows = output.embedding * _EMBEDDING_SCALE if self._retrains_embedding else output.features
        logits: Tensor = self.retrained(rows.detach().to(self.retrained.weight.dtype)).float()
        return logits

    def tau_logits(self, output: TaskOutput, tau: float) -> Tensor | None:
        """(B, C) float32 of the linear classifier with its weights' norms evened out.

        Each class's weights are divided by their norm to the power of tau; biases are left out
        (Kang et al., ICLR 2020). None without a linear classifier.
        """
        if self.classifier is None or isinstance(self.classifier, ClassVectors):
            return None
        weight = self.classifier.weight.detach().float()
        evened = weight / weight.norm(dim=1, keepdim=True) ** tau
        # A common factor of the rows would change no prediction.
        rows = output.embedding if self._classifies_embedding else output.features
        scores: Tensor = rows.float() @ evened.T
        return scores


class Network(nn.Module):
    """Images -> embeddings on the unit sphere, for one task or many."""

    def __init__(  # noqa: PLR0913 - what `NetworkDescription` says
        self,
        backbone: Backbone,
        *,
        channels: int,
        input_size: int,
        embedding_dim: int,
        num_classes: Mapping[str, int],
        classifier_input: ClassifierInput | None,
        vectors_per_class: int = 1,
        retrained_input: ClassifierInput | None = None,
    ) -> None:
        """Put heads on a backbone.

        Args:
            backbone: shared by all tasks.
            channels: of the images it takes; kept for those who prepare them.
            input_size: side of these images, in pixels.
            embedding_dim: D, the same for each task.
            num_classes: task -> C.
            classifier_input: what the classifiers see: the embedding before normalisation
                ("features") or after it, scaled ("embedding"), or only its angles to vectors of
                the classes ("cosine"). None = no classifiers.
            vectors_per_class: V, for "cosine".
            retrained_input: what a second classifier sees, for `freeze`; None = there is none.
        """
        super().__init__()
        self.channels = channels
        self.input_size = input_size
        self.embedding_dim = embedding_dim
        self.num_classes = dict(num_classes)
        self.has_classifier = classifier_input is not None
        self.has_linear_classifier = classifier_input not in (None, "cosine")
        self.has_retrained = retrained_input is not None
        self._frozen = False
        self.backbone = backbone
        # The prefix frees task names such as "type", which are attributes of a ModuleDict.
        self.heads = nn.ModuleDict(
            {
                f"task_{task}": TaskHead(
                    backbone.num_features,
                    embedding_dim=embedding_dim,
                    num_classes=count,
                    classifier_input=classifier_input,
                    vectors_per_class=vectors_per_class,
                    retrained_input=retrained_input,
                )
                for task, count in num_classes.items()
            }
        )

    def forward(self, images: Tensor) -> dict[str, TaskOutput]:
        """Every task's outputs: (B, channels, input_size, input_size) -> task -> outputs."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            features = self.backbone(images)
            outputs = {task: self.heads[f"task_{task}"](features) for task in self.num_classes}
        return {
            task: output._replace(retrained_logits=self.head(task).retrained_logits(output))
            for task, output in outputs.items()
        }

    def freeze(self, *, frozen: bool) -> None:
        """Train only the second classifiers, or all again.

        A frozen network stays in evaluation mode, so that no BatchNorm statistics move either.
        """
        if frozen != self._frozen:
            self._frozen = frozen
            self.train()

    def train(self, mode: bool = True) -> Network:
        """As `nn.Module.train`; in vain while the network is frozen."""
        return super().train(mode and not self._frozen)

    def give_slopes(self) -> None:
        """Give `TaskOutput.logit_slopes` from now on, where the classifiers are linear."""
        for task in self.num_classes:
            self.head(task).gives_slopes = True

    def retrained_parameters(self) -> list[nn.Parameter]:
        """Those of the second classifiers; empty without them."""
        second = [self.head(task).retrained for task in self.num_classes]
        return [p for layer in second if layer is not None for p in layer.parameters()]

    def head(self, task: str) -> TaskHead:
        """A task's head."""
        head = self.heads[f"task_{task}"]
        assert isinstance(head, TaskHead)
        return head
