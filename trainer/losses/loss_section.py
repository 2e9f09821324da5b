"""The loss section of a run's configuration; the other sections are in `sections`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from data_shards.errors import require
from trainer.losses.loss_facts import LOSSES, LossName

_RIGHT_ANGLE = math.pi / 2
NullSetting = Literal["margin", "weight_softmax", "logit_adjustment", "vectors_per_class"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """What is minimised. docs/methods.md says which loss heeds which setting."""

    name: LossName = "clmle"
    """clmle = angular margins to clusters, plus a softmax term. The others are the classics to
    compare with (docs/methods.md)."""

    scale: float = 16.0
    """s: sharpness. Cosines are multiplied by it."""

    margin_between: float = 0.35
    """m_between in radians: how much nearer its own cluster is than any of another class."""

    margin_within: float = 0.1
    """m_within in radians: the same towards the other clusters of its class."""

    margin_rare_exponent: float = 0.0
    """a: the margin between classes is m_between (n_max / n)^a for a class of n images, at most
    1.5 radians. 0 = the same for all."""

    margin: float | None = None
    """Margin of the classics that have one, in the unit of its paper. null = the loss's own default
    (docs/methods.md)."""

    vectors_per_class: int | None = None
    """Trained vectors that stand for each class in subcenter_arcface and softtriple. null = the
    loss's own default, 3 and 10."""

    mining: Literal["batch_hard", "semi_hard"] = "batch_hard"
    """Triplets of triplet: of each image, the farthest of its class and the nearest of another; or
    all whose negative is farther than the positive, but not by the margin."""

    weight_within: float = 0.1
    """w_within: weight of the within-class term. 0 = one-sided margins between classes only."""

    weight_softmax: float | None = None
    """w_softmax: weight of the joint cross-entropy of a linear head. 0 = none; null = 1 for clmle,
    0 for the other losses of embeddings."""

    margin_anneal: float = 0.5
    """Share of the training over which angular margins grow linearly from 0, counted from
    clmle_from. Full margins from the first step can collapse the embedding."""

    candidates: Literal["batch", "table"] = "batch"
    """Clusters that a sample is compared with: those in its batch, or all of the table (centroids
    of absent ones as old as the table, unless mean_momentum is above 0)."""

    mean_momentum: float = 0.0
    """beta in [0, 1]: a cluster's centroid in the loss is the direction of beta x its running mean
    + (1 - beta) x the mean of its images in the micro-batch; without images there, of its running
    mean, which each step moves likewise by the images on all ranks. Starts anew with each table.
    0 = no running means; 1 = the table's centroids as they are."""

    cluster_prior: float = 0.0
    """tau: a cluster of n_j images weighs (n_j / n_own)^tau in the between-class term, so that
    large clusters are pushed away harder (Menon et al., ICLR 2021, for clusters)."""

    spread: float = 0.0
    """lambda of implicit semantic data augmentation (ISDA: Wang et al., NeurIPS 2019) in the
    softmax term, growing linearly from 0 at clmle_from to this at the last step: each image stands
    for all that lie around it as images of a cluster do. One covariance is pooled over all
    clusters, so that rare classes borrow it. 0 = off."""

    clmle_from: float = 0.0
    """Share of the training before which only the softmax term is minimised, on batches drawn by
    `sampler.warmup_sampling`; the first table is asked for when it is over."""

    class_weight: Literal["none", "inverse", "effective_number"] = "none"
    """Weight of a class in the softmax term: 1, 1/n, or (1-b)/(1-b^n) (Cui et al., CVPR 2019)."""

    class_weight_beta: float = 0.999
    """b of class_weight effective_number."""

    reweight_from: float = 0.0
    """Share of the training before which class_weight does not apply yet (deferred re-weighting,
    Cao et al., NeurIPS 2019)."""

    logit_adjustment: float | None = None
    """tau: log of the class's share of the training images, times tau, is added to the logits of
    the softmax term in training. null = 1 for balanced_softmax, else 0."""

    focal_gamma: float = 2.0
    """gamma of focal: how much less well-classified samples count."""

    def __post_init__(self) -> None:
        require(self.scale > 0, "loss.scale", "> 0", self.scale)
        require(
            0 <= self.margin_within <= self.margin_between < _RIGHT_ANGLE,
            "loss margins",
            "0 <= margin_within <= margin_between < pi/2 radians",
            f"within {self.margin_within}, between {self.margin_between}",
        )
        for name in (
            "margin_rare_exponent",
            "weight_within",
            "cluster_prior",
            "spread",
            "focal_gamma",
        ):
            require(getattr(self, name) >= 0, f"loss.{name}", ">= 0", getattr(self, name))
        for name in ("margin", "weight_softmax", "logit_adjustment"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"loss.{name}", ">= 0 or null", value)
        require(
            "arcface" not in self.name or self.or_default("margin") < _RIGHT_ANGLE,
            f"loss.margin of {self.name}",
            "< pi/2 radians",
            self.margin,
        )
        require(
            self.name != "lmle" or self.or_default("margin") <= 1,
            "loss.margin of lmle",
            "<= 1, a share of the paper's",
            self.margin,
        )
        for name in ("margin_anneal", "reweight_from", "mean_momentum"):
            require(0 <= getattr(self, name) <= 1, f"loss.{name}", "in [0, 1]", getattr(self, name))
        require(0 <= self.clmle_from < 1, "loss.clmle_from", "in [0, 1)", self.clmle_from)
        require(
            self.warmup_share + self.margin_anneal <= 1 or not self.warmup_share,
            "loss.clmle_from + loss.margin_anneal",
            "<= 1, for the margins to be whole before the training ends",
            self.clmle_from + self.margin_anneal,
        )
        vectors = self.vectors_per_class
        require(vectors is None or vectors >= 1, "loss.vectors_per_class", ">= 1 or null", vectors)
        require(
            0 <= self.class_weight_beta < 1,
            "loss.class_weight_beta",
            "in [0, 1)",
            self.class_weight_beta,
        )

    def or_default(self, setting: NullSetting) -> float:
        """A setting that may be null: its value, or the default of this loss; 0 if it has none."""
        facts = LOSSES[self.name]
        value: float | None = getattr(self, setting) if setting in facts.settings else None
        return facts.defaults.get(setting, 0.0) if value is None else value

    @property
    def warmup_share(self) -> float:
        """Share of the training before the loss itself begins: `clmle_from` for clmle, else 0."""
        return self.clmle_from if self.name == "clmle" else 0.0

    @property
    def keeps_means(self) -> bool:
        """Whether clusters have running means: with a momentum of 1 these would never move."""
        return self.name == "clmle" and 0 < self.mean_momentum < 1

    @property
    def keeps_covariance(self) -> bool:
        """Whether the covariance of embeddings within their clusters is followed."""
        return self.name == "clmle" and self.spread > 0 and self.has_classifier

    @property
    def has_classifier(self) -> bool:
        """Whether the network has a head that classifies."""
        return LOSSES[self.name].head != "joint" or self.or_default("weight_softmax") > 0
