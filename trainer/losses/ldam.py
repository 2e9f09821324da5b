"""LDAM (Cao et al., NeurIPS 2019): softmax over cosines, with larger margins for rare classes.

Legend: N samples, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.losses.batch import TaskBatch, TermValue
from trainer.losses.lazy_torch import functional, torch
from trainer.losses.margins import ldam_margins
from trainer.losses.softmax import ClassWeightSettings, class_weights_of, softmax_loss
from trainer.losses.spec import LossSpec, Term

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LdamSettings(ClassWeightSettings):
    """Settings of LDAM."""

    name: str = "ldam"

    scale: float = 16.0
    """s: sharpness. Cosines are multiplied by it."""

    margin: float = 0.5
    """Margin of the rarest class, as a difference of cosines."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_above_0("scale")
        self._require_at_least(0, "margin")


def margin_softmax_loss(
    cosines: Tensor, labels: Tensor, weights: Tensor | None, *, margins: Tensor, scale: float
) -> Tensor:
    """Return the cross-entropy of scaled cosines, each sample's own less the margin of its class.

    With `ldam_margins` it is LDAM (Cao et al., NeurIPS 2019).

    Args:
        cosines: (N, C) floating point cosines to the classes' vectors.
        labels: (N,) int64 in [0, C).
        weights: (C,) float32, or None for 1 each.
        margins: (C,) floating point differences of cosines.
        scale: s > 0.

    Returns:
        Scalar float32.
    """
    own = functional.one_hot(labels, cosines.shape[1]).to(cosines.dtype)
    return softmax_loss(scale * (cosines - own * margins), labels, weights)


class LdamTerm(Term):
    """Softmax over cosines to class vectors, with margins that are larger for rare classes."""

    def __init__(
        self, settings: LdamSettings, class_counts: np.ndarray, device: torch.device
    ) -> None:
        self._settings = settings
        self._margins = ldam_margins(class_counts, settings.margin).to(device)
        self._class_weights = class_weights_of(settings, class_counts, device)

    def __call__(self, batch: TaskBatch) -> TermValue:
        """LDAM of the batch's cosines to the class vectors."""
        cosines = batch.output.logits
        assert cosines is not None, "the network was built without class vectors"
        reweighted = batch.clock.is_past(self._settings.reweight_from)
        value = margin_softmax_loss(
            cosines.float(),
            batch.labels,
            self._class_weights if reweighted else None,
            margins=self._margins,
            scale=self._settings.scale,
        )
        return TermValue(value, {"ldam": value})


SPEC = LossSpec(settings=LdamSettings, make_term=LdamTerm, head="cosine")
