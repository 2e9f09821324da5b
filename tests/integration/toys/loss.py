"""A toy loss: the mean of (1 - p)^power, p the probability of the image's class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.losses.batch import TaskBatch, TermValue
from trainer.losses.lazy_torch import torch
from trainer.losses.spec import LossSettings, LossSpec, Term


@dataclass(frozen=True, kw_only=True)
class ToySettings(LossSettings):
    """Settings of the toy loss."""

    name: str = "toy"

    power: int = 1
    """How much less well-classified images count."""

    def __post_init__(self) -> None:
        self._require_at_least(0, "power")


class ToyTerm(Term):
    """The toy loss of the linear head."""

    def __init__(
        self, settings: ToySettings, class_counts: np.ndarray, device: torch.device
    ) -> None:
        del class_counts, device
        self._power = settings.power

    def __call__(self, batch: TaskBatch) -> TermValue:
        """The mean over the images."""
        logits = batch.output.logits
        assert logits is not None
        p = logits.float().softmax(dim=1).gather(1, batch.labels[:, None])
        loss = ((1 - p) ** self._power).mean()
        return TermValue(loss, {"toy": loss})


SPEC = LossSpec(settings=ToySettings, make_term=ToyTerm)
