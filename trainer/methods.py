"""The losses that a run can choose, and what each needs of the other parts.

Facts only, no torch: configurations, reports and the trainer all read them here. What a loss
computes is in `trainer.losses`; how to choose one is in docs/methods.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trainer.evaluation.readout_names import HEAD, KNC_MARGIN, KNC_SOFT, NEAREST_CLASS_MEAN

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
class Method:
    """What one loss needs, and the defaults that its paper suggests."""

    paper: str
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


METHODS: dict[LossName, Method] = {
    "clmle": Method(
        paper="Huang et al., TPAMI 2020",
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
    "softmax": Method(paper="", head="linear", settings=_SOFTMAX),
    "balanced_softmax": Method(
        paper="Ren et al., NeurIPS 2020; Menon et al., ICLR 2021",
        head="linear",
        settings=_SOFTMAX,
        defaults={"logit_adjustment": 1.0},
    ),
    "focal": Method(
        paper="Lin et al., ICCV 2017",
        head="linear",
        settings=_SOFTMAX | {"focal_gamma"},
    ),
    "ldam": Method(
        paper="Cao et al., NeurIPS 2019",
        head="cosine",
        settings=_WEIGHTS | {"scale", "margin"},
        defaults={"margin": 0.5},
    ),
    "arcface": Method(
        paper="Deng et al., CVPR 2019",
        head="cosine",
        settings=frozenset({"scale", "margin", "margin_anneal"}),
        defaults={"margin": 0.5},
    ),
    "cosface": Method(
        paper="Wang et al., CVPR 2018",
        head="cosine",
        settings=frozenset({"scale", "margin", "margin_anneal"}),
        defaults={"margin": 0.35},
    ),
    "subcenter_arcface": Method(
        paper="Deng et al., ECCV 2020",
        head="cosine",
        settings=frozenset({"scale", "margin", "margin_anneal", "vectors_per_class"}),
        defaults={"margin": 0.5, "vectors_per_class": 3},
    ),
    "softtriple": Method(
        paper="Qian et al., ICCV 2019",
        head="cosine",
        settings=frozenset({"scale", "margin", "vectors_per_class"}),
        defaults={"margin": 0.01, "vectors_per_class": 10},
    ),
    "triplet": Method(
        paper="Schroff et al., CVPR 2015; Hermans et al., 2017",
        head="joint",
        sampling="class_groups",
        readout=NEAREST_CLASS_MEAN,
        settings=_JOINT | {"margin", "mining"},
        defaults={"margin": 0.2},
    ),
    "supcon": Method(
        paper="Khosla et al., NeurIPS 2020",
        head="joint",
        sampling="class_groups",
        readout=NEAREST_CLASS_MEAN,
        settings=_JOINT | {"scale"},
    ),
    "magnet": Method(
        paper="Rippel et al., ICLR 2016",
        head="joint",
        needs_table=True,
        sampling="cluster",
        readout=KNC_SOFT,
        settings=_JOINT | {"margin"},
        defaults={"margin": 1.0},
    ),
    "lmle": Method(
        paper="Huang et al., CVPR 2016",
        head="joint",
        needs_table=True,
        sampling="cluster",
        readout=KNC_MARGIN,
        settings=_JOINT | {"margin"},
        defaults={"margin": 0.5},
    ),
}
