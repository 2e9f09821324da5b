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

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from trainer.losses.cluster_means import cluster_means

# Keeps the slope of sqrt finite where an embedding lies on its centroid.
_SMALLEST_SQUARED_SINE = 1e-12
# Embeddings whose mean is shorter than this cancel out; its direction is only rounding.
_SHORTEST_MEAN = 1e-4


@dataclass(frozen=True)
class ClmleTerms:
    """The loss and its two parts, each a scalar mean over the samples."""

    loss: Tensor
    """between + weight_within * within."""
    between: Tensor
    within: Tensor


def angular_margin_cosine(cosine: Tensor, margin_rad: Tensor | float) -> Tensor:
    """Return cos(theta + margin), made to fall for every angle.

    Beyond theta + margin = pi the cosine itself would rise again, and so would reward the worst
    samples; there it goes on as -2 - cos(theta + margin), with the same value and slope at pi.

    Args:
        cosine: (N,) floating point cosines of theta; rounding beyond [-1, 1] is harmless.
        margin_rad: radians in [0, pi], a number or (N,).

    Returns:
        (N,) in [-3, 1], with a finite gradient everywhere.
    """
    margin = torch.as_tensor(margin_rad, dtype=cosine.dtype, device=cosine.device)
    sine = (1 - cosine.square()).clamp(min=_SMALLEST_SQUARED_SINE).sqrt()
    shifted = cosine * margin.cos() - sine * margin.sin()
    return torch.where(cosine >= -margin.cos(), shifted, -2 - shifted)


def clmle_loss(  # noqa: PLR0913 -- the equation has this many symbols
    cosine: Tensor,
    cluster: Tensor,
    class_of: Tensor,
    *,
    scale: float,
    margin_between_rad: Tensor | float,
    margin_within_rad: Tensor | float,
    weight_within: float,
    log_prior: Tensor | None = None,
) -> ClmleTerms:
    """Compute the CLMLE loss of a batch.

    Args:
        cosine: (N, K) float32 or float64 cos theta_ij (see `candidate_cosines`), N >= 1.
        cluster: (N,) int64 a(i), the column of each sample's own cluster.
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
    return ClmleTerms(between + weight_within * within, between, within)


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


def mixed_directions(old: Tensor, means: Tensor, *, momentum: float) -> Tensor:
    """Directions of momentum * old + (1 - momentum) * means.

    Args:
        old: (P, D) unit rows; without a gradient.
        means: (P, D) of the same dtype, rows of any length.
        momentum: in [0, 1].

    Returns:
        (P, D) unit rows; the old one where the two cancel out.
    """
    if momentum:
        means = momentum * old + (1 - momentum) * means
    usable = means.detach().norm(dim=1, keepdim=True) > _SHORTEST_MEAN
    return torch.where(usable, functional.normalize(means, dim=1), old)
