"""The CLMLE loss as a module for a training loop of one's own.

Legend: B images of a batch, D embedding, M clusters of a table.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from clmle.clusters import check_table
from clustering.table.table import ClusterTable
from trainer.losses.clmle import candidate_cosines, clmle_loss

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_EXPECTED = "expected loss(embeddings (B, D), cluster_ids (B,), table)"


class ClmleLoss(nn.Module):
    """Angular margins between embeddings and the clusters of a table (`trainer.losses.clmle`).

        loss = clmle.ClmleLoss()
        value = loss(network(images), cluster_ids, table)

    The centroid of a cluster with images in the batch is the direction of
    mean_momentum x its centroid in the table + (1 - mean_momentum) x the mean of these images,
    through which gradients flow.
    """

    def __init__(
        self,
        *,
        scale: float = 16.0,
        margin_between: float = 0.35,
        margin_within: float = 0.1,
        weight_within: float = 0.1,
        candidates: Literal["batch", "table"] = "table",
        mean_momentum: float = 0.5,
    ) -> None:
        """Choose the settings.

        Args:
            scale: s > 0, by which cosines are multiplied.
            margin_between: radians: how much nearer an image is to its own cluster than to any of
                another class.
            margin_within: radians: the same towards the other clusters of its class;
                0 <= margin_within <= margin_between < pi / 2.
            weight_within: weight of the within-class part, >= 0.
            candidates: clusters to compare an image with: all of the table, or those that have
                images in the batch.
            mean_momentum: in [0, 1], share of the table's centroid. Keep it above 0 where a cluster
                may have a single image in a batch: with 0 that image is its own centroid.

        Raises:
            ValueError: a setting out of range.
        """
        super().__init__()
        rules = {
            f"scale must be > 0, got {scale}": scale > 0,
            "0 <= margin_within <= margin_between < pi / 2 must hold, got "
            f"{margin_within} and {margin_between}": (
                0 <= margin_within <= margin_between < math.pi / 2
            ),
            f"weight_within must be >= 0, got {weight_within}": weight_within >= 0,
            f"candidates must be 'batch' or 'table', got {candidates!r}": candidates
            in ("batch", "table"),
            f"mean_momentum must lie in [0, 1], got {mean_momentum}": 0 <= mean_momentum <= 1,
        }
        for rule, holds in rules.items():
            if not holds:
                raise ValueError(rule)
        self.scale = scale
        self.margin_between = margin_between
        self.margin_within = margin_within
        self.weight_within = weight_within
        self.candidates: Literal["batch", "table"] = candidates
        self.mean_momentum = mean_momentum
        self._table: tuple[ClusterTable, Tensor, Tensor] | None = None

    def forward(self, embeddings: Tensor, cluster_ids: Tensor, table: ClusterTable) -> Tensor:
        """The mean loss of a batch.

        Args:
            embeddings: (B, D) floating point, B >= 1; rows of any length, which are normalised.
            cluster_ids: (B,) integers on any device: the cluster of each image in the table, such
                as of `clmle.cluster_ids`.
            table: the clusters, such as of `clmle.cluster`.

        Returns:
            Scalar, differentiable in the embeddings.

        Raises:
            TypeError: arguments of other types, also swapped ones.
            ValueError: shapes that do not fit, or a cluster that is not in the table.
        """
        _check_types(embeddings, cluster_ids)
        check_table(table)
        _check_shapes(embeddings, cluster_ids, table)
        centroids, class_of = self._tensors(table, embeddings.device)
        exact = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        own, cosine, clusters = candidate_cosines(
            functional.normalize(exact, dim=1),
            cluster_ids.to(embeddings.device, torch.int64),
            centroids,
            candidates=self.candidates,
            momentum=self.mean_momentum,
        )
        return clmle_loss(
            cosine=cosine,
            cluster=own,
            class_of=class_of[clusters],
            scale=self.scale,
            margin_between_rad=self.margin_between,
            margin_within_rad=self.margin_within,
            weight_within=self.weight_within,
        ).loss

    def extra_repr(self) -> str:
        """The settings, for `print`."""
        return (
            f"scale={self.scale}, margin_between={self.margin_between}, "
            f"margin_within={self.margin_within}, weight_within={self.weight_within}, "
            f"candidates={self.candidates!r}, mean_momentum={self.mean_momentum}"
        )

    def _tensors(self, table: ClusterTable, device: torch.device) -> tuple[Tensor, Tensor]:
        """(M, D) centroids and (M,) classes on the device; those of the last table are kept."""
        if self._table is None or self._table[0] is not table or self._table[1].device != device:
            centroids = torch.from_numpy(np.array(table.centroids)).to(device)
            class_of = torch.from_numpy(np.array(table.class_of)).to(device)
            self._table = table, centroids, class_of
        return self._table[1], self._table[2]


def _check_types(embeddings: object, cluster_ids: object) -> None:
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        got = _described(embeddings)
        raise TypeError(f"embeddings must be a floating-point tensor, got {got}; {_EXPECTED}")
    if not isinstance(cluster_ids, Tensor) or cluster_ids.dtype not in _INTEGERS:
        got = _described(cluster_ids)
        raise TypeError(f"cluster_ids must be a tensor of integers, got {got}; {_EXPECTED}")


def _check_shapes(embeddings: Tensor, cluster_ids: Tensor, table: ClusterTable) -> None:
    fits = embeddings.ndim == 2 and len(embeddings) and cluster_ids.shape == embeddings.shape[:1]
    if not fits or embeddings.shape[1] != table.dim:
        raise ValueError(
            f"got embeddings {tuple(embeddings.shape)}, cluster_ids {tuple(cluster_ids.shape)} and "
            f"a table of dimension {table.dim}; {_EXPECTED}, B >= 1, D as in the table"
        )
    lowest, highest = int(cluster_ids.min()), int(cluster_ids.max())
    if lowest < 0 or highest >= table.num_clusters:
        raise ValueError(
            f"cluster_ids must lie in 0 .. {table.num_clusters - 1}, got {lowest} .. {highest}; "
            "clmle.cluster_ids(table, sample_ids) gives them"
        )


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__
