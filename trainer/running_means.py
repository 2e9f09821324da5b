"""Running means of clusters: where each cluster has been lately, between two tables.

Legend: N images of a step over all ranks, n micro-batches of a rank, B images of a micro-batch,
D embedding, M clusters of a table, T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.losses.clmle import mixed_directions
from trainer.world import World

# Bounds the matrix of which image is of which cluster: with 32,000 images a step, 128 MiB.
_CLUSTERS_AT_A_TIME = 1024


def moved_means(means: Tensor, embeddings: Tensor, clusters: Tensor, *, momentum: float) -> Tensor:
    """Move the means of the clusters of a step towards its images.

    Args:
        means: (M, D) float32 unit rows.
        embeddings: (N, D) floating point unit rows, of all ranks in one fixed order.
        clusters: (N,) int64 cluster of each.
        momentum: beta in [0, 1]: share of the old mean.

    Returns:
        (M, D): directions of beta * mean + (1 - beta) * mean of the step's embeddings; clusters
        without an image, or where the two cancel out, are as they were.
    """
    present, position = torch.unique(clusters, return_inverse=True)
    embeddings = embeddings.to(means.dtype)
    moved = means.clone()
    numbers = torch.arange(len(present), device=means.device)
    for block in torch.split(numbers, _CLUSTERS_AT_A_TIME):
        # A matrix product, since adding up rows by index has no fixed order on GPUs.
        belongs = (position == block[:, None]).to(means.dtype)
        of_step = (belongs @ embeddings) / belongs.sum(dim=1, keepdim=True)
        which = present[block]
        moved[which] = mixed_directions(means[which], of_step, momentum=momentum)
    return moved


class StepEmbeddings:
    """Collects what this rank embedded in a step, and puts the ranks' parts together."""

    def __init__(self) -> None:
        self._embeddings: dict[str, list[Tensor]] = {}
        self._clusters: dict[str, list[Tensor]] = {}

    def add(self, task: str, embeddings: Tensor, clusters: Tensor) -> None:
        """Keep one micro-batch: (B, D) embeddings, (B,) int64 clusters; B is the same on all."""
        self._embeddings.setdefault(task, []).append(embeddings.detach())
        self._clusters.setdefault(task, []).append(clusters)

    def gather(self, world: World) -> dict[str, tuple[Tensor, Tensor]]:
        """Empty the collection, giving every rank the whole step. Every rank must call it.

        Returns:
            task -> embeddings (N, D) and clusters (N,), in the order of the step's micro-batches,
            so the same for any number of ranks.
        """
        tasks = list(self._embeddings)
        if not tasks:
            return {}
        embeddings = _whole_step(self._embeddings, world)
        clusters = _whole_step(self._clusters, world)
        self._embeddings, self._clusters = {}, {}
        return {task: (embeddings[at], clusters[at]) for at, task in enumerate(tasks)}


def _whole_step(parts: Mapping[str, list[Tensor]], world: World) -> Tensor:
    """(T, N, ...) of T lists of n tensors (B, ...) on each rank."""
    mine = torch.stack([torch.stack(of_task) for of_task in parts.values()])
    # Micro-batch g of a step is number g // size of rank g % size (`rank_share`).
    return world.gather(mine).permute(1, 2, 0, *range(3, mine.ndim + 1)).flatten(1, 3)
