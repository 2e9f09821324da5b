"""Means of embeddings, cluster by cluster."""

from __future__ import annotations

import torch
from torch import Tensor

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
