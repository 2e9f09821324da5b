"""A backbone, and for each task an embedding head and a classifier.

Legend: B images, C classes of a task, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainer.losses.outputs import TaskOutput
from trainer.models.backbone import Backbone
from trainer.models.backbones import build_backbone
from trainer.models.heads import TaskHead
from trainer.run.network import ClassifierInput


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
            channels: of the images, 1 or 3; stored for those who prepare the images.
            input_size: side of these images, in pixels.
            embedding_dim: D, the same for each task.
            num_classes: task -> C.
            classifier_input: what the classifiers see (`ClassifierInput`); None = no classifier.
            vectors_per_class: V, for "cosine".
            retrained_input: what the second classifiers see, which `freeze` trains; None = none.
        """
        super().__init__()
        self.channels = channels
        self.input_size = input_size
        self.embedding_dim = embedding_dim
        self.num_classes = dict(num_classes)
        self.has_classifier = classifier_input is not None
        self._frozen = False
        self.backbone = backbone
        # The prefix allows task names such as "type", which are attributes of a ModuleDict.
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
        """(B, channels, input_size, input_size) -> task -> its outputs."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            features = self.backbone(images)
            outputs = {task: self.heads[f"task_{task}"](features) for task in self.num_classes}
        return {
            task: output._replace(retrained_logits=self.head(task).retrained_logits(output))
            for task, output in outputs.items()
        }

    def freeze(self, *, frozen: bool) -> None:
        """Train only the second classifiers (frozen), or everything.

        A frozen network stays in evaluation mode, so that no BatchNorm statistics change either.
        """
        if frozen != self._frozen:
            self._frozen = frozen
            self.train()

    def train(self, mode: bool = True) -> Network:
        """As `nn.Module.train`; without effect while the network is frozen."""
        return super().train(mode and not self._frozen)

    def give_slopes(self) -> None:
        """Return `TaskOutput.logit_slopes` from now on, if the classifiers are linear."""
        for task in self.num_classes:
            self.head(task).gives_slopes = True

    def retrained_parameters(self) -> list[nn.Parameter]:
        """Parameters of the second classifiers; empty without any."""
        second = [self.head(task).retrained for task in self.num_classes]
        return [p for layer in second if layer is not None for p in layer.parameters()]

    def head(self, task: str) -> TaskHead:
        """A task's head."""
        head = self.heads[f"task_{task}"]
        assert isinstance(head, TaskHead)
        return head


def build_network(  # noqa: PLR0913 - what `NetworkDescription` says
    backbone: str,
    *,
    channels: int,
    input_size: int,
    embedding_dim: int,
    num_classes: Mapping[str, int],
    classifier_input: ClassifierInput | None = "features",
    vectors_per_class: int = 1,
    retrained_input: ClassifierInput | None = None,
) -> Network:
    """Build a network with fresh weights, drawn from torch's global generator.

    Args:
        backbone: a name in `BACKBONES`, or "timm:NAME".
        channels: of the images: 1 = grey, 3 = RGB.
        input_size: side of the images, in pixels.
        embedding_dim: D.
        num_classes: task -> number of its classes.
        classifier_input: what the classifiers see (see `Network`); None = no classifiers.
        vectors_per_class: of a "cosine" classifier.
        retrained_input: what the second classifiers see; None = none.

    Raises:
        ConfigError: an unknown backbone (the nearest name is suggested), one that does not take
            such images, or a timm backbone without timm.
    """
    return Network(
        build_backbone(backbone, channels=channels, input_size=input_size),
        channels=channels,
        input_size=input_size,
        embedding_dim=embedding_dim,
        num_classes=num_classes,
        classifier_input=classifier_input,
        vectors_per_class=vectors_per_class,
        retrained_input=retrained_input,
    )
