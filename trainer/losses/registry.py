"""The losses that a run can choose. A new one is a file of this folder and a line here.

The description of a loss: `spec.LossSpec`. How to choose one: docs/methods.md.
"""

from __future__ import annotations

from trainer.losses import (
    arcface,
    balanced_softmax,
    clmle,
    cosface,
    focal,
    ldam,
    lmle,
    magnet,
    softmax,
    softtriple,
    subcenter_arcface,
    supcon,
    triplet,
)
from trainer.losses.spec import LossSpec

LOSSES: dict[str, LossSpec] = {
    spec.name: spec
    for spec in (
        clmle.SPEC,
        softmax.SPEC,
        balanced_softmax.SPEC,
        focal.SPEC,
        ldam.SPEC,
        arcface.SPEC,
        cosface.SPEC,
        subcenter_arcface.SPEC,
        softtriple.SPEC,
        triplet.SPEC,
        supcon.SPEC,
        magnet.SPEC,
        lmle.SPEC,
    )
}
"""By `loss.name`."""
