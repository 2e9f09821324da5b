"""Implicit semantic data augmentation: all images around each one count, in closed form.

Images of a rare class show few of the ways in which images of a class differ. These ways are
similar for all classes, and the pooled covariance Sigma of embeddings within their clusters
describes them. For offsets d ~ N(0, lambda Sigma) of an embedding, the expected softmax loss is at
most (Jensen)

    log sum_j exp(logit_j - logit_y + lambda / 2 (s_j - s_y)^T Sigma (s_j - s_y))

with s_j the slope of logit j: what drawing infinitely many such embeddings would cost, without
drawing any (ISDA: Wang et al., NeurIPS 2019, who estimate Sigma for each class; here a class of
five images borrows it from all clusters of the table). Sigma is the second moment about unit
centroids, so a little more than the covariance along them.

Legend: N samples, D embedding, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.losses.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor


def moved_covariance(
    covariance: Tensor | None, embeddings: Tensor, centers: Tensor, *, momentum: float
) -> Tensor:
    """Move the pooled covariance within clusters towards that of a step.

    Args:
        covariance: (D, D) float32 of the steps before; None before the first.
        embeddings: (N, D) floating point unit rows, of all ranks in one fixed order.
        centers: (N, D) the centroid of each one's cluster.
        momentum: in [0, 1): share of the old covariance.

    Returns:
        (D, D) float32, symmetric, without negative eigenvalues.
    """
    offsets = (embeddings - centers).float()
    of_step = offsets.T @ offsets / len(offsets)
    return of_step if covariance is None else momentum * covariance + (1 - momentum) * of_step


def isda_offsets(slopes: Tensor, covariance: Tensor, labels: Tensor) -> Tensor:
    """What the covariance of embeddings adds to each logit, for lambda = 1.

    Args:
        slopes: (C, D) floating point: how fast each class's logit grows along the embedding.
        covariance: (D, D) float32 Sigma.
        labels: (N,) int64 class of each sample.

    Returns:
        (N, C) float32 >= 0 up to rounding: half the variance of logit_j - logit_y; 0 for j = y.
        Differentiable in the slopes.
    """
    with torch.autocast(slopes.device.type, enabled=False):
        slopes = slopes.float()
        moved = slopes @ covariance
        own = (moved * slopes).sum(dim=1)
        together = moved[labels] @ slopes.T
        return 0.5 * (own[None, :] + own[labels][:, None]) - together
