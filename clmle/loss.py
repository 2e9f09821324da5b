"""The CLMLE loss as a module for your own training loop.

Legend: B images of a batch, D embedding, M clusters of a table.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from clmle.directions import as_array, require_directions
from clustering.arrays import require_table
from clustering.table.table import ClusterTable
from data_shards.errors import require
from trainer.losses.batch import TaskTable
from trainer.losses.clmle import ClmleSettings, candidate_cosines, clmle_loss

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_EXPECTED = "expected loss(embeddings (B, D), cluster_ids (B,), table)"


class ClmleLoss(nn.Module):
    """Angular margins between embeddings and the clusters of a table (`trainer.losses.clmle`).

        loss = clmle.ClmleLoss()
        value = loss(network(images), cluster_ids, table)

    The centroid of a cluster with images in the batch is the direction of
    mean_momentum x its centroid in the table + (1 - mean_momentum) x the mean of these images,
    through which gradients flow.

    Settings have the names and defaults of a run's `loss` section (`ClmleSettings`), except for the
    defaults of `candidates` and `mean_momentum`: a run draws batches with several images of each
    cluster and its neighbours. Your own batches may hold a single image of a cluster; with a run's
    defaults that image would be its own centroid and be compared with few clusters.
    """

    def __init__(
        self,
        *,
        scale: float = ClmleSettings.scale,
        margin_between: float = ClmleSettings.margin_between,
        margin_within: float = ClmleSettings.margin_within,
        weight_within: float = ClmleSettings.weight_within,
        candidates: Literal["batch", "table"] = "table",
        mean_momentum: float = 0.5,
    ) -> None:
        """Choose the settings.

        Args:
            scale: s > 0, by which cosines are multiplied.
            margin_between: radians: how much nearer an image must be to its own cluster than to any
                of another class.
            margin_within: radians: the same for the other clusters of its class;
                0 <= margin_within <= margin_between < pi / 2.
            weight_within: weight of the within-class part, >= 0.
            candidates: clusters to compare an image with: all of the table, or those that have
                images in the batch.
            mean_momentum: in [0, 1], share of the table's centroid. Keep it above 0 where a cluster
                may have a single image in a batch: with 0 that image is its own centroid.

        Raises:
            ConfigError: a setting out of range; a ValueError.
        """
        super().__init__()
        require(
            candidates in ("batch", "table"), "loss.candidates", "'batch' or 'table'", candidates
        )
        self.settings = ClmleSettings(
            scale=scale,
            margin_between=margin_between,
            margin_within=margin_within,
            weight_within=weight_within,
            candidates=candidates,
            mean_momentum=mean_momentum,
        )
        self._table: tuple[ClusterTable, TaskTable] | None = None

    def forward(self, embeddings: Tensor, cluster_ids: Tensor, table: ClusterTable) -> Tensor:
        """The mean loss of a batch.

        Args:
            embeddings: (B, D) floating point, B >= 1; rows of any length, which are normalised.
            cluster_ids: (B,) integers on any device: the cluster of each image in the table, which
                `clmle.cluster_ids` gives.
            table: the clusters, such as those of `clmle.cluster`.

        Returns:
            Scalar, differentiable in the embeddings.

        Raises:
            TypeError: arguments of other types, also swapped ones.
            ValueError: shapes that do not fit, a cluster that is not in the table, or an embedding
                that is zero or not finite, which has no direction.
        """
        _check_types(embeddings, cluster_ids)
        require_table(table)
        _check_shapes(embeddings, cluster_ids, table)
        exact = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        require_directions(as_array(torch.linalg.vector_norm(exact, dim=1)))
        settings, placed = self.settings, self._placed(table, embeddings.device)
        own, cosine, clusters = candidate_cosines(
            functional.normalize(exact, dim=1),
            cluster_ids.to(embeddings.device, torch.int64),
            placed.centroids,
            candidates=settings.candidates,
            momentum=settings.mean_momentum,
        )
        return clmle_loss(
            cosine=cosine,
            cluster=own,
            class_of=placed.class_of[clusters],
            scale=settings.scale,
            margin_between_rad=settings.margin_between,
            margin_within_rad=settings.margin_within,
            weight_within=settings.weight_within,
        ).loss

    def extra_repr(self) -> str:
        """The settings, for `print`."""
        names = (
            *("scale", "margin_between", "margin_within", "weight_within"),
            *("candidates", "mean_momentum"),
        )
        return ", ".join(f"{name}={getattr(self.settings, name)!r}" for name in names)

    def _placed(self, table: ClusterTable, device: torch.device) -> TaskTable:
        """The table on the device; the last one is kept."""
        if self._table is not None:
            last, placed = self._table
            if last is table and placed.centroids.device == device:
                return placed
        with torch.inference_mode(False):  # kept for calls that need a gradient
            placed = TaskTable.of(table, device)
        self._table = table, placed
        return placed


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
