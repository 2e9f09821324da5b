"""Running means of clusters: where each cluster has been lately, between two tables.

Legend: N images of a step over all ranks, n micro-batches of a rank, B images of a micro-batch,
D embedding, M clusters of a table, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from trainer.losses.cluster_means import cluster_means, mixed_directions
from trainer.losses.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor

Gather = Callable[["Tensor"], "Tensor"]
"""A tensor of each rank, the same shape on all -> (ranks, ...) of them, on every rank."""


def move_means(means: Tensor, embeddings: Tensor, clusters: Tensor, *, momentum: float) -> None:
    """Move the means of the clusters of a step towards its images, in place.

    Each becomes the direction of beta * mean + (1 - beta) * mean of the step's embeddings; clusters
    without an image, or where the two cancel out, stay as they are.

    Args:
        means: (M, D) float32 unit rows; changed.
        embeddings: (N, D) floating point unit rows, of all ranks in one fixed order.
        clusters: (N,) int64 cluster of each.
        momentum: beta in [0, 1]: share of the old mean.
    """
    present, position = torch.unique(clusters, return_inverse=True)
    of_step = cluster_means(embeddings.to(means.dtype), position, len(present))
    moved = mixed_directions(means[present], of_step, momentum=momentum)
    means.index_copy_(0, present, moved)


class StepEmbeddings:
    """Collects what this rank embedded in a step, and puts the ranks' parts together."""

    def __init__(self) -> None:
        self._embeddings: dict[str, list[Tensor]] = {}
        self._clusters: dict[str, list[Tensor]] = {}

    def add(self, task: str, embeddings: Tensor, clusters: Tensor) -> None:
        """Keep one micro-batch: (B, D) embeddings, (B,) int64 clusters; B is the same on all."""
        self._embeddings.setdefault(task, []).append(embeddings.detach())
        self._clusters.setdefault(task, []).append(clusters)

    def gather(self, gather: Gather) -> dict[str, tuple[Tensor, Tensor]]:
        """Empty the collection, giving every rank the whole step. Every rank must call it.

        Returns:
            task -> embeddings (N, D) and clusters (N,), in the order of the step's micro-batches,
            so the same for any number of ranks.
        """
        tasks = list(self._embeddings)
        if not tasks:
            return {}
        embeddings = _whole_step(self._embeddings, gather)
        clusters = _whole_step(self._clusters, gather)
        self._embeddings, self._clusters = {}, {}
        return {task: (embeddings[at], clusters[at]) for at, task in enumerate(tasks)}


def _whole_step(parts: Mapping[str, list[Tensor]], gather: Gather) -> Tensor:
    """(T, N, ...) of T lists of n tensors (B, ...) on each rank."""
    mine = torch.stack([torch.stack(of_task) for of_task in parts.values()])
    # Micro-batch g of a step is number g // size of rank g % size (`micro_batches_of_rank`).
    return gather(mine).permute(1, 2, 0, *range(3, mine.ndim + 1)).flatten(1, 3)
