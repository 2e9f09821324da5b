"""What the losses on angles to class vectors share: settings, and a term around the library.

pytorch-metric-learning supplies the mathematics. Class vectors are weights of the network, so that
DeepSpeed trains and saves them like all others, and any job reads them out without the library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.losses.batch import TaskBatch, TermValue
from trainer.losses.lazy_torch import torch
from trainer.losses.margins import angular_margin_cosine
from trainer.losses.spec import LossSettings, Term


@dataclass(frozen=True, kw_only=True)
class ClassVectorSettings(LossSettings):
    """Settings of losses on the angles to class vectors."""

    scale: float = 16.0
    """s: sharpness. Cosines are multiplied by it."""

    def __post_init__(self) -> None:
        self._require_above_0("scale")


class ClassVectorTerm(Term):
    """A loss of the library, with the network's class vectors in the place of its own."""

    def __init__(
        self, name: str, library_loss: Any, *, margin: float, margin_anneal: float
    ) -> None:
        """Wrap a loss.

        Args:
            name: of the part that is shown.
            library_loss: built inside `stand_in()`, with one parameter and a `margin`.
            margin: the full one, in the library's unit.
            margin_anneal: share of the training run over which it grows from 0.
        """
        self._name = name
        self._library = library_loss
        self._margin, self._margin_anneal = margin, margin_anneal
        ((self._vectors_name, _),) = library_loss.named_parameters()

    def __call__(self, batch: TaskBatch) -> TermValue:
        """The loss of the batch's embeddings against the network's class vectors."""
        vectors = batch.output.class_vectors
        assert vectors is not None, "the network was built without class vectors"
        self._library.margin = self._margin * batch.clock.margin_factor(self._margin_anneal)
        value = torch.func.functional_call(
            self._library, {self._vectors_name: vectors.T}, (batch.output.embedding, batch.labels)
        )
        return TermValue(value, {self._name: value})


def stand_in() -> Any:
    """A context in which a library's loss is built without memory for its own class vectors.

    They stand in for the network's, which each call brings; the embedding size given there only
    shapes them.
    """
    return torch.device("meta")


def with_our_margin(library_loss: Any) -> Any:
    """The loss with our cos(theta + margin), whose slope is finite at theta = 0."""

    def modify_cosine_of_target_classes(cosine: torch.Tensor) -> torch.Tensor:
        return angular_margin_cosine(cosine, library_loss.margin)

    library_loss.modify_cosine_of_target_classes = modify_cosine_of_target_classes
    return library_loss
