"""Means of embeddings, cluster by cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.losses.lazy_torch import functional, torch

if TYPE_CHECKING:
    from torch import Tensor

# Embeddings whose mean is shorter than this cancel out; its direction is only rounding.
_SHORTEST_MEAN = 1e-4
# Bounds the matrix of which image is of which cluster: with 32,000 images, 128 MiB.
_CLUSTERS_AT_A_TIME = 1024


def cluster_means(embeddings: Tensor, position: Tensor, num_clusters: int) -> Tensor:
    """The mean of each cluster's embeddings.

    Args:
        embeddings: (N, D) floating point.
        position: (N,) int64 cluster of each, in [0, num_clusters); each cluster has one at least.
        num_clusters: P >= 1.

    Returns:
        (P, D) of the embeddings' dtype.
    """
    means = []
    numbers = torch.arange(num_clusters, device=position.device)
    for block in torch.split(numbers, _CLUSTERS_AT_A_TIME):
        # A matrix product, since adding up rows by index has no fixed order on GPUs.
        belongs = (position == block[:, None]).to(embeddings.dtype)
        means.append((belongs @ embeddings) / belongs.sum(dim=1, keepdim=True))
    return torch.cat(means)


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
