"""The losses that a run can choose, and what each needs of the other parts.

Facts only, no torch: configurations, reports and the trainer all read them here. What a loss
computes is in `trainer.losses`; how to choose one is in docs/methods.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trainer.config.readout_names import HEAD, KNC_MARGIN, KNC_SOFT, NEAREST_CLASS_MEAN

LossName = Literal[
    "clmle",
    "softmax",
    "balanced_softmax",
    "focal",
    "ldam",
    "arcface",
    "cosface",
    "subcenter_arcface",
    "softtriple",
    "triplet",
    "supcon",
    "magnet",
    "lmle",
]
LabelSampling = Literal[
    "instance", "class_balanced", "square_root", "under", "progressive", "class_groups"
]
"""Ways to draw images by their labels alone."""
Sampling = Literal["cluster", LabelSampling]
Head = Literal["linear", "cosine", "joint"]
"""What classifies: "linear" = a linear head; "cosine" = unit vectors of the classes, which the loss
trains; "joint" = a linear head only where `loss.weight_softmax` > 0."""

_WEIGHTS = frozenset({"class_weight", "class_weight_beta", "reweight_from"})
_SOFTMAX = _WEIGHTS | {"logit_adjustment"}
_JOINT = _SOFTMAX | {"weight_softmax"}


@dataclass(frozen=True, kw_only=True)
class LossFacts:
    """What one loss needs, and the defaults that its paper suggests."""

    head: Head
    settings: frozenset[str]
    """Settings of the loss section that it heeds, beside its name."""
    needs_table: bool = False
    """Whether it is defined on neighbourhoods of clusters."""
    sampling: Sampling = "instance"
    """What `sampler.sampling` auto means."""
    readout: str = HEAD
    """The read-out that it is meant for."""
    defaults: dict[str, float] = field(default_factory=dict)
    """Values of the settings that are null unless set; 0 for those not named here."""


LOSSES: dict[LossName, LossFacts] = {
    "clmle": LossFacts(
        head="joint",
        needs_table=True,
        sampling="cluster",
        readout=KNC_MARGIN,
        settings=_JOINT
        | {
            "scale",
            "margin_between",
            "margin_within",
            "margin_rare_exponent",
            "weight_within",
            "margin_anneal",
            "candidates",
            "mean_momentum",
            "cluster_prior",
            "spread",
            "clmle_from",
        },
        defaults={"weight_softmax": 1.0},
    ),
    "softmax": LossFacts(head="linear", settings=_SOFTMAX),
    "balanced_softmax": LossFacts(
        head="linear",
        settings=_SOFTMAX,
        defaults={"logit_adjustment": 1.0},
    ),
    "focal": LossFacts(
        head="linear",
        settings=_SOFTMAX | {"focal_gamma"},
    ),
    "ldam": LossFacts(
        head="cosine",
        settings=_WEIGHTS | {"scale", "margin"},
        defaults={"margin": 0.5},
    ),
    "arcface": LossFacts(
        head="cosine",
        settings=frozenset({"scale", "margin", "margin_anneal"}),
        defaults={"margin": 0.5},
    ),
    "cosface": LossFacts(
        head="cosine",
        settings=frozenset({"scale", "margin", "margin_anneal"}),
        defaults={"margin": 0.35},
    ),
    "subcenter_arcface": LossFacts(
        head="cosine",
        settings=frozenset({"scale", "margin", "margin_anneal", "vectors_per_class"}),
        defaults={"margin": 0.5, "vectors_per_class": 3},
    ),
    "softtriple": LossFacts(
        head="cosine",
        settings=frozenset({"scale", "margin", "vectors_per_class"}),
        defaults={"margin": 0.01, "vectors_per_class": 10},
    ),
    "triplet": LossFacts(
        head="joint",
        sampling="class_groups",
        readout=NEAREST_CLASS_MEAN,
        settings=_JOINT | {"margin", "mining"},
        defaults={"margin": 0.2},
    ),
    "supcon": LossFacts(
        head="joint",
        sampling="class_groups",
        readout=NEAREST_CLASS_MEAN,
        settings=_JOINT | {"scale"},
    ),
    "magnet": LossFacts(
        head="joint",
        needs_table=True,
        sampling="cluster",
        readout=KNC_SOFT,
        settings=_JOINT | {"margin"},
        defaults={"margin": 1.0},
    ),
    "lmle": LossFacts(
        head="joint",
        needs_table=True,
        sampling="cluster",
        readout=KNC_MARGIN,
        settings=_JOINT | {"margin"},
        defaults={"margin": 0.5},
    ),
}
