"""Balanced softmax (Ren et al., NeurIPS 2020): logits adjusted by the classes' shares."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.losses.softmax import SoftmaxSettings, SoftmaxTerm
from trainer.losses.spec import LossSpec


@dataclass(frozen=True, kw_only=True)
class BalancedSoftmaxSettings(SoftmaxSettings):
    """Settings of balanced softmax: those of softmax, adjusted by default."""

    name: str = "balanced_softmax"

    logit_adjustment: float = 1.0


SPEC = LossSpec(settings=BalancedSoftmaxSettings, make_term=SoftmaxTerm)
