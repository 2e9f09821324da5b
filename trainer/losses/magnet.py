"""Magnet loss (Rippel et al., ICLR 2016): clusters of a class attract their samples, others repel.

With r_n an embedding, mu(n) the mean of its cluster in the batch, c(n) its class, and
var = sum over n of |r_n - mu(n)|^2 / (N - 1):

    loss = mean over n of [ |r_n - mu(n)|^2 / (2 var) + alpha
                            + log sum over k exp(-|r_n - mu_k|^2 / (2 var)) ]_+

where k goes through the batch's clusters of other classes.

Legend: N samples, D embedding, P clusters present in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.losses.batch import TaskBatch, TermValue
from trainer.losses.cluster_means import cluster_means
from trainer.losses.lazy_torch import torch
from trainer.losses.softmax import JointSettings
from trainer.losses.spec import LossSpec, Term

if TYPE_CHECKING:
    from torch import Tensor

# Where each cluster of a batch is one image, repeated, nothing varies.
_SMALLEST_VARIANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class MagnetSettings(JointSettings):
    """Settings of the Magnet loss."""

    name: str = "magnet"

    margin: float = 1.0
    """alpha: by how much, in units of the exponent, its own cluster must be nearer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(0, "margin")

    @property
    def compares_within_batch(self) -> bool:  # noqa: D102
        return True


def magnet_loss(embeddings: Tensor, cluster: Tensor, label: Tensor, *, alpha: float) -> Tensor:
    """Compute the Magnet loss of a batch.

    Args:
        embeddings: (N, D) floating point, N >= 1; computed in float32 at least.
        cluster: (N,) int64, any numbers; the same for samples of one cluster.
        label: (N,) int64 class; samples of one cluster have the same.
        alpha: by how much, in units of the exponent, its own cluster must be nearer.

    Returns:
        Scalar, differentiable in the embeddings, also through means and variance; 0 without a
        gradient where all are of one class.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        present, position = torch.unique(cluster, return_inverse=True)
        means = cluster_means(rows, position, len(present))
        squared = (rows[:, None] - means[None]).square().sum(dim=2)
        own = squared.gather(1, position[:, None]).squeeze(1)
        variance = (own.sum() / max(1, len(rows) - 1)).clamp(min=_SMALLEST_VARIANCE)
        class_of = torch.empty(len(means), dtype=label.dtype, device=label.device)
        class_of[position] = label
        others = class_of[None] != label[:, None]
        if not others.any():
            return rows.sum() * 0
        exponents = (-squared / (2 * variance)).masked_fill(~others, -torch.inf)
        hinges = own / (2 * variance) + alpha + exponents.logsumexp(dim=1)
        return hinges.relu().mean()


class MagnetTerm(Term):
    """Clusters of the batch attract their images, and repel those of other classes."""

    def __init__(
        self, settings: MagnetSettings, class_counts: np.ndarray, device: torch.device
    ) -> None:
        del class_counts, device
        self._alpha = settings.margin

    def __call__(self, batch: TaskBatch) -> TermValue:
        """Magnet loss of the batch, by the table's clusters."""
        _, clusters = batch.clusters
        value = magnet_loss(batch.output.embedding, clusters, batch.labels, alpha=self._alpha)
        return TermValue(value, {"magnet": value})


SPEC = LossSpec(
    settings=MagnetSettings,
    make_term=MagnetTerm,
    needs_table=True,
    sampling="cluster",
    readout="knc_soft",
)
