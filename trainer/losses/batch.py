"""What a loss sees of a micro-batch, and what it makes of it.

Legend: B images of a micro-batch, D embedding, M clusters of a table, K candidate clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clustering.table.table import ClusterTable
from trainer.losses.outputs import TaskOutput


@dataclass(frozen=True)
class TaskTable:
    """One task's clusters where the loss needs them."""

    centroids: Tensor
    """(M, D) float32 unit rows: the table's, or the running means that began as these."""
    class_of: Tensor
    """(M,) int64."""
    sizes: Tensor
    """(M,) int64 images of each cluster."""
    ids: np.ndarray
    """(N,) int64 sample ids, ascending."""
    cluster_of_id: np.ndarray
    """(N,) int64 cluster of each of `ids`."""

    @classmethod
    def of(cls, table: ClusterTable, device: torch.device) -> TaskTable:
        """Turn a table's member lists around: from cluster -> ids to id -> cluster."""
        clusters = np.repeat(np.arange(table.num_clusters), table.cluster_sizes)
        order = np.argsort(table.member_ids, kind="stable")
        return cls(
            centroids=torch.from_numpy(np.array(table.centroids)).to(device),
            class_of=torch.from_numpy(np.array(table.class_of)).to(device),
            sizes=torch.from_numpy(np.array(table.cluster_sizes)).to(device),
            ids=table.member_ids[order],
            cluster_of_id=clusters[order],
        )

    def clusters(self, sample_ids: np.ndarray) -> Tensor:
        """(B,) int64 cluster of each sample, on the table's device."""
        found = self.cluster_of_id[np.searchsorted(self.ids, sample_ids)]
        return torch.from_numpy(found).to(self.class_of.device)


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
    margin_factor: float
    """Share of the full margins in force, in [0, 1]."""
    reweighted: bool
    """Whether class weights are in force."""
    isda_factor: float = 0.0
    """Share of the full `loss.spread` in force, in [0, 1]."""
    covariance: Tensor | None = None
    """(D, D) float32 of embeddings within their clusters; None where `loss.spread` is 0, and
    before it is known."""

    @cached_property
    def clusters(self) -> tuple[TaskTable, Tensor]:
        """The table, and (B,) int64 cluster of each image in it; only where a table is active."""
        assert self.table is not None, "a loss on clusters was called before the first table"
        return self.table, self.table.clusters(self.sample_ids)


class Candidates(NamedTuple):
    """The clusters that CLMLE compared a micro-batch with, and by which margins."""

    rows: Tensor
    """(B,) int64 which of them is each image's own."""
    class_of: Tensor
    """(K,) int64."""
    log_prior: Tensor | None
    """(K,) of each; None for 0."""
    margin_between: Tensor | float
    """Radians, a number or (B,) of each image's class: the one in force."""


class TermValue(NamedTuple):
    """What a term comes to on a micro-batch."""

    loss: Tensor
    """Scalar, to be minimised."""
    parts: dict[str, Tensor]
    """Scalars to show, by name."""
    candidates: Candidates | None = None
    """Of CLMLE alone."""
