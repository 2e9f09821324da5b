"""Our reading of CLMLE: angular margins to clusters, between and within classes.

With theta_ij the angle between embedding i and centroid j, a(i) its cluster, y_i its class, s the
scale:

    between_i = log(1 + sum over j of another class
                        exp(s [cos theta_ij - cos(theta_i,a(i) + margin_between)] + p_j - p_a(i)))
    within_i  = log(1 + sum over j != a(i) of the same class
                        exp(s [cos theta_ij - cos(theta_i,a(i) + margin_within)]))
    loss      = mean over i of (between_i + weight_within within_i)

p is 0, or tau log n_j for a cluster of n_j images: the logit adjustment of Menon et al., ICLR 2021,
with clusters in the place of classes. Cosines alone, at test time, are then those of clusters that
are alike in size.

Legend: N samples, D embedding, K candidate clusters, M clusters of the table, P clusters present in
the batch. Everything is computed in float32 at least, and on one rank; nothing is gathered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from data_shards.errors import ConfigError, require
from trainer.losses.batch import ClusterComparison, StepView, TaskBatch, TaskTable, TermValue
from trainer.losses.cluster_means import cluster_means, mixed_directions
from trainer.losses.lazy_torch import torch
from trainer.losses.margins import angular_margin_cosine, rare_class_margins
from trainer.losses.running_means import move_means
from trainer.losses.softmax import AugmentedSoftmaxTerm, JointSettings
from trainer.losses.spec import LossSpec, Sampling, Term

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ClmleSettings(JointSettings):
    """Settings of CLMLE: angular margins to clusters, plus a softmax term."""

    name: str = "clmle"

    scale: float = 16.0
    """s: sharpness. Cosines are multiplied by it."""

    margin_between: float = 0.35
    """m_between in radians: how much nearer its own cluster is than any of another class."""

    margin_within: float = 0.1
    """m_within in radians: the same against the other clusters of its class."""

    margin_rare_exponent: float = 0.0
    """a: the margin between classes is m_between (n_max / n)^a for a class of n images, at most
    1.5 radians. 0 = the same for all."""

    weight_within: float = 0.1
    """w_within: weight of the within-class term. 0 = one-sided margins between classes only."""

    weight_softmax: float = 1.0

    margin_anneal: float = 0.5
    """Share of the training run over which margins grow linearly from 0, counted from the end of
    the warm-up. Full margins from the first step can collapse the embedding."""

    candidates: Literal["batch", "table"] = "batch"
    """Clusters that a sample is compared with: those in its batch, or all of the table (centroids
    of absent ones as old as the table, unless mean_momentum is above 0)."""

    mean_momentum: float = 0.0
    """beta in [0, 1]: a cluster's centroid in the loss is the direction of beta x its running mean
    + (1 - beta) x the mean of its images in the micro-batch; without images there, of its running
    mean, which each step moves in the same way by the images on all ranks. It restarts with each
    table. 0 = no running means; 1 = the table's centroids as they are."""

    cluster_prior: float = 0.0
    """tau: a cluster of n_j images weighs (n_j / n_own)^tau in the between-class term, so that
    large clusters are pushed away harder (Menon et al., ICLR 2021, for clusters)."""

    isda_strength: float = 0.0
    """lambda of implicit semantic data augmentation (ISDA: Wang et al., NeurIPS 2019) in the
    softmax term, growing linearly from 0 at the end of the warm-up to this at the last step: each
    image stands for all that lie around it as images of a cluster do. One covariance is pooled over
    all clusters, so that rare classes borrow it. 0 = off."""

    warmup_share: float = 0.0
    """Share of the training run before which only the softmax term is minimised, on batches drawn
    by `sampler.warmup_sampling`; the first table is asked for when it is over."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_above_0("scale")
        require(
            0 <= self.margin_within <= self.margin_between < math.pi / 2,
            "loss margins",
            "0 <= margin_within <= margin_between < pi/2 radians",
            f"within {self.margin_within}, between {self.margin_between}",
        )
        self._require_at_least(
            0, "margin_rare_exponent", "weight_within", "cluster_prior", "isda_strength"
        )
        self._require_share("margin_anneal", "mean_momentum")
        share = self.warmup_share
        require(0 <= share < 1, "loss.warmup_share", "in [0, 1)", share)
        require(
            share + self.margin_anneal <= 1 or not share,
            "loss.warmup_share + loss.margin_anneal",
            "<= 1, for the margins to be whole before the training run ends",
            share + self.margin_anneal,
        )
        if share and not self.has_classifier:
            raise ConfigError(
                f"loss.warmup_share is {share}, so only the softmax term is minimised until then, "
                "but loss.weight_softmax is 0; set it above 0, or loss.warmup_share to 0"
            )

    @property
    def keeps_means(self) -> bool:
        """Whether clusters have running means: with a momentum of 1 these would never move."""
        return 0 < self.mean_momentum < 1

    @property
    def needs_logit_slopes(self) -> bool:  # noqa: D102
        return self.isda_strength > 0 and self.has_classifier

    def extra_terms(self, class_counts: np.ndarray, device: torch.device) -> list[Term]:
        """The softmax term, with its augmentation if that has a strength."""
        if not self.needs_logit_slopes:
            return super().extra_terms(class_counts, device)
        weight, strength = self.weight_softmax, self.isda_strength
        return [AugmentedSoftmaxTerm(self, class_counts, device, weight=weight, strength=strength)]

    @property
    def sampling_remedy(self) -> str:  # noqa: D102
        return ", or loss.candidates table and loss.mean_momentum above 0, such as 0.9"

    @property
    def compares_within_batch(self) -> bool:  # noqa: D102
        return self.candidates == "batch"

    @property
    def _of_softmax_term(self) -> tuple[str, ...]:
        return (*super()._of_softmax_term, "isda_strength")

    def warnings(self, sampling: Sampling) -> list[str]:  # noqa: D102
        messages = super().warnings(sampling)
        if sampling != "cluster" and not self.mean_momentum:
            messages.append(
                f"loss.candidates table with sampler.sampling {sampling} and loss.mean_momentum 0: "
                "where a cluster has one image in a micro-batch, that image is its own centroid, "
                "so the loss has no pull on it; set loss.mean_momentum above 0, such as 0.9"
            )
        return messages


class ClmleValue(NamedTuple):
    """The loss and its two parts, each a scalar mean over the samples."""

    loss: Tensor
    """between + weight_within * within."""
    between: Tensor
    within: Tensor


def clmle_loss(  # noqa: PLR0913 -- the equation has this many symbols
    cluster: Tensor,
    cosine: Tensor,
    class_of: Tensor,
    *,
    scale: float,
    margin_between_rad: Tensor | float,
    margin_within_rad: Tensor | float,
    weight_within: float,
    log_prior: Tensor | None = None,
) -> ClmleValue:
    """Compute the CLMLE loss of a batch; takes what `candidate_cosines` returns, in its order.

    Args:
        cluster: (N,) int64 a(i), the column of each sample's own cluster.
        cosine: (N, K) float32 or float64 cos theta_ij (see `candidate_cosines`), N >= 1.
        class_of: (K,) int64 class of each cluster.
        scale: s > 0.
        margin_between_rad: radians, a number or (N,).
        margin_within_rad: radians, a number or (N,).
        weight_within: weight of the within-class part, >= 0.
        log_prior: (K,) floating point p of each cluster, of which only differences count; None
            for 0.

    Returns:
        Scalars, differentiable in the cosines. A sample with nothing to be compared with adds 0 to
        that part, and no gradient.
    """
    own = cluster[:, None]
    own_cosine = cosine.gather(1, own).squeeze(1)
    same_class = class_of[None, :] == class_of[own]
    scaled = scale * cosine

    def mean_term(
        left_out: Tensor, margin_rad: Tensor | float, prior: Tensor | None = None
    ) -> Tensor:
        logits, target = scaled, scale * angular_margin_cosine(own_cosine, margin_rad)
        if prior is not None:
            logits, target = logits + prior, target + prior[cluster]
        # log(1 + sum exp(l - t)) = logsumexp - t, where t, in the own cluster's place, is the 1.
        logits = logits.masked_fill(left_out, -torch.inf).scatter_(1, own, target[:, None])
        return (logits.logsumexp(dim=1) - target).mean()

    between = mean_term(same_class, margin_between_rad, log_prior)
    within = mean_term(~same_class, margin_within_rad)
    return ClmleValue(between + weight_within * within, between, within)


def candidate_cosines(
    embeddings: Tensor,
    cluster_ids: Tensor,
    centroids: Tensor,
    *,
    candidates: Literal["batch", "table"],
    momentum: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines to candidate clusters, the batch's own means in the place of older centroids.

    The table is as old as its last refresh; the mean of a cluster's embeddings in the batch is of
    this step, and the gradient flows through it.

    Args:
        embeddings: (N, D) floating point unit rows.
        cluster_ids: (N,) int64 cluster of each sample in the table.
        centroids: (M, D) unit rows without a gradient: the table's, or running means
            (`running_means`).
        candidates: "batch" keeps only the clusters that are in the batch; "table" keeps all of
            them, the others with their old centroids.
        momentum: beta in [0, 1]: share of the old centroid; the batch's mean has the rest.

    Returns:
        The column of each sample's own cluster (N,), the cosines (N, K), and which clusters they
        are to (K,) int64, with K = P or K = M. A cluster whose embeddings cancel out keeps its old
        centroid.
    """
    present, position = torch.unique(cluster_ids, return_inverse=True)
    with torch.autocast(embeddings.device.type, enabled=False):
        embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        old = centroids.to(embeddings.dtype)
        means = cluster_means(embeddings, position, len(present))
        fresh = mixed_directions(old[present], means, momentum=momentum)
        cosine = embeddings @ fresh.T
        if candidates == "batch":
            return position, cosine, present
        # Columns are replaced, not centroids: a table of these would be copied, and get a gradient.
        cosine = (embeddings @ old.T).index_copy_(1, present, cosine)
    return cluster_ids, cosine, torch.arange(len(centroids), device=cluster_ids.device)


class ClmleTerm(Term):
    """Angular margins to clusters, between and within classes; keeps running means of clusters.

    The means live in the table that is handed to each call, whose centroids they begin as.
    """

    def __init__(
        self, settings: ClmleSettings, class_counts: np.ndarray, device: torch.device
    ) -> None:
        self._settings = settings
        self._margins_of_class: Tensor | None = None
        if settings.margin_rare_exponent:
            self._margins_of_class = rare_class_margins(
                class_counts, settings.margin_between, exponent=settings.margin_rare_exponent
            ).to(device)

    def __call__(self, batch: TaskBatch) -> TermValue:
        """CLMLE of the batch, with the batch's own means in the clusters' centroids."""
        settings = self._settings
        table, clusters = batch.clusters
        own, cosine, which = candidate_cosines(
            batch.output.embedding,
            clusters,
            table.centroids,
            candidates=settings.candidates,
            momentum=settings.mean_momentum,
        )
        class_of, tau = table.class_of[which], settings.cluster_prior
        log_prior = tau * table.sizes[which].float().log() if tau else None
        factor = batch.clock.margin_factor(settings.margin_anneal)
        of_class = self._margins_of_class
        margin = factor * (settings.margin_between if of_class is None else of_class[batch.labels])
        value = clmle_loss(
            own,
            cosine,
            class_of,
            scale=settings.scale,
            margin_between_rad=margin,
            margin_within_rad=settings.margin_within * factor,
            weight_within=settings.weight_within,
            log_prior=log_prior,
        )
        comparison = ClusterComparison(
            loss=value.loss.detach(),
            rows=own,
            class_of=class_of,
            log_prior=log_prior,
            scale=settings.scale,
            margin_between_rad=margin,
            margin_within_rad=settings.margin_within * factor,
            weight_within=settings.weight_within,
        )
        parts = {"between": value.between, "within": value.within}
        return TermValue(value.loss, parts, comparison)

    @property
    def follows_steps(self) -> bool:  # noqa: D102
        return self._settings.keeps_means

    def follow(self, step: StepView, table: TaskTable) -> None:  # noqa: D102
        momentum = self._settings.mean_momentum
        move_means(table.centroids, step.embeddings, step.clusters, momentum=momentum)

    def state(self, table: TaskTable | None) -> Mapping[str, Tensor]:
        """(M, D) float32 running "means" of the table's clusters, which the next step changes."""
        return {"means": table.centroids} if self.follows_steps and table is not None else {}

    def restore(self, state: Mapping[str, Tensor], table: TaskTable | None) -> None:  # noqa: D102
        if self.follows_steps and "means" in state:
            assert table is not None, "running means are of a table's clusters"
            table.centroids.copy_(state["means"])


SPEC = LossSpec(
    settings=ClmleSettings,
    make_term=ClmleTerm,
    needs_table=True,
    sampling="cluster",
    readout="knc_margin",
    readout_with_head="blend",
)
