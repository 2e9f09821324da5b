"""The input and the output of a loss, for a micro-batch.

Legend: B images of a micro-batch, N images of a step over all ranks, D embedding, M clusters of a
table, K candidate clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clustering.table.table import ClusterTable
from trainer.losses.lazy_torch import torch
from trainer.losses.outputs import TaskOutput
from trainer.losses.schedule import Clock

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TaskTable:
    """One task's clusters where the loss needs them."""

    centroids: Tensor
    """(M, D) float32 unit rows: the table's, or the running means that began as these."""
    class_of: Tensor
    """(M,) int64."""
    sizes: Tensor
    """(M,) int64 images of each cluster."""
    table: ClusterTable
    """Where these are from."""

    @classmethod
    def of(cls, table: ClusterTable, device: torch.device) -> TaskTable:
        """Copy a table's arrays to a device."""
        return cls(
            centroids=torch.from_numpy(np.array(table.centroids)).to(device),
            class_of=torch.from_numpy(np.array(table.class_of)).to(device),
            sizes=torch.from_numpy(np.array(table.cluster_sizes)).to(device),
            table=table,
        )

    def clusters(self, sample_ids: np.ndarray) -> Tensor:
        """(B,) int64 cluster of each sample, on the table's device."""
        return torch.from_numpy(self.table.clusters_of_samples(sample_ids)).to(self.class_of.device)


@dataclass(frozen=True, kw_only=True)
class TaskBatch:
    """One task's view of a micro-batch."""

    output: TaskOutput
    labels: Tensor
    """(B,) int64."""
    sample_ids: np.ndarray
    """(B,) int64."""
    table: TaskTable | None
    """The task's clusters; None where no table is active."""
    clock: Clock

    @cached_property
    def clusters(self) -> tuple[TaskTable, Tensor]:
        """The table, and (B,) int64 cluster of each image in it; only where a table is active."""
        assert self.table is not None, "a loss on clusters was called before the first table"
        return self.table, self.table.clusters(self.sample_ids)


class StepView(NamedTuple):
    """A task's images of one step, of all ranks in the order of its micro-batches."""

    embeddings: Tensor
    """(N, D) floating point unit rows, detached."""
    clusters: Tensor
    """(N,) int64 cluster of each."""
    centers: Tensor
    """(N, D) float32: the centroid of each one's cluster, as the step found it."""


class ClusterComparison(NamedTuple):
    """The clusters that CLMLE compared a micro-batch with, and what came of it."""

    loss: Tensor
    """Scalar, detached: without the softmax term."""
    rows: Tensor
    """(B,) int64 which of the candidates is each image's own."""
    class_of: Tensor
    """(K,) int64."""
    log_prior: Tensor | None
    """(K,) of each; None for 0."""
    scale: float
    margin_between_rad: Tensor | float
    """A number, or (B,) of each image's class: as annealed so far."""
    margin_within_rad: float
    weight_within: float


class TermValue(NamedTuple):
    """The value of a term on a micro-batch."""

    loss: Tensor
    """Scalar, to be minimised."""
    parts: dict[str, Tensor]
    """Scalars to show, by name."""
    comparison: ClusterComparison | None = None
    """Of CLMLE alone, for the watch on collapse."""
