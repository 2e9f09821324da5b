"""LMLE (Huang et al., CVPR 2016): the triple-header hinge on quintuplets, mined in the batch.

Around an embedding x, with D the Euclidean distance of unit vectors, a quintuplet is: p+, the
farthest of its cluster; p-, the nearest of its class's other clusters; p--, the farthest of these;
n, the nearest of another class. The loss asks for D(x,p+) < D(x,p-) < D(x,p--) < D(x,n):

    loss = mean over x of [g1 + D(x,p+) - D(x,p-)]_+ + [g2 + D(x,p-) - D(x,p--)]_+
                          + [g3 + D(x,p--) - D(x,n)]_+

Legend: N samples, D embedding, M clusters of the table, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_shards.errors import require
from trainer.losses.batch import TaskBatch, TermValue
from trainer.losses.lazy_torch import torch
from trainer.losses.softmax import JointSettings
from trainer.losses.spec import LossSpec, Term

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LmleSettings(JointSettings):
    """Settings of LMLE."""

    name: str = "lmle"

    margin: float = 0.5
    """Share of the paper's bounds on its three margins, in [0, 1]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        margin = self.margin
        require(
            0 <= margin <= 1, "loss.margin of lmle", "in [0, 1], a share of the paper's", margin
        )

    @property
    def compares_within_batch(self) -> bool:  # noqa: D102
        return True


def lmle_margins(
    cluster_sizes: Tensor, class_of: Tensor, class_counts: Tensor, *, share: float
) -> Tensor:
    """Margins from how much of a circle clusters and classes may take, as the paper bounds them.

    If L images lie evenly on a circle, a cluster of l takes an arc of 2 pi l / L, and a class an
    arc of 2 pi / C; a margin is the chord of a share of that arc.

    Args:
        cluster_sizes: (M,) images of each cluster.
        class_of: (M,) int64 class of each cluster.
        class_counts: (C,) images of each class.
        share: s in (0, 1]; 1 = the paper's bounds.

    Returns:
        (M, 3) float32, g1, g2 and g3 of the samples of each cluster, in [0, 2].
    """
    sizes = cluster_sizes.double()
    total = class_counts.double().sum()
    rest = class_counts.double()[class_of] - sizes
    shares = torch.stack(
        [sizes / total, rest / total, torch.full_like(sizes, 1 / len(class_counts))], dim=1
    )
    half_arcs = (math.pi * share * shares).clamp(max=math.pi / 2)
    return (2 * half_arcs.sin()).float()


def lmle_loss(embeddings: Tensor, cluster: Tensor, label: Tensor, margins: Tensor) -> Tensor:
    """Compute the triple-header hinge of a batch.

    Args:
        embeddings: (N, D) floating point unit rows, N >= 1; computed in float32 at least.
        cluster: (N,) int64 cluster of each sample.
        label: (N,) int64 class of each sample.
        margins: (N, 3) g1, g2 and g3 of each sample.

    Returns:
        Scalar. A sample whose class has one cluster in the batch has no p- and p--: its hinge is
        [g3 + D(x,p+) - D(x,n)]_+. Without another class in the batch there is no n, nor its hinge.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        # Not 2 - 2 cos, which rounds away distances below 0.001. Where two coincide the slope is 0.
        distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        same_cluster = cluster[:, None] == cluster[None]
        same_class = label[:, None] == label[None]
        siblings = same_class & ~same_cluster
        positive = distances.masked_fill(~same_cluster, -torch.inf).amax(dim=1)
        has_siblings, has_others = siblings.any(dim=1), ~same_class.all(dim=1)
        nearest = _nearest(distances, siblings, has_siblings)
        farthest = distances.masked_fill(~siblings, 0).amax(dim=1)
        negative = _nearest(distances, ~same_class, has_others)
        g1, g2, g3 = margins.to(rows.dtype).unbind(dim=1)
        inner = (g1 + positive - nearest).relu() + (g2 + nearest - farthest).relu()
        outer = (g3 + torch.where(has_siblings, farthest, positive) - negative).relu()
        return (inner * has_siblings + outer * has_others).mean()


def _nearest(distances: Tensor, candidates: Tensor, there: Tensor) -> Tensor:
    """(N,) smallest distance to the candidates of each row; 0 where there are none."""
    found = distances.masked_fill(~candidates, torch.inf).amin(dim=1)
    return torch.where(there, found, 0.0)


class LmleTerm(Term):
    """The triple-header hinge on quintuplets."""

    def __init__(
        self, settings: LmleSettings, class_counts: np.ndarray, device: torch.device
    ) -> None:
        self._share = settings.margin
        self._class_counts = torch.as_tensor(class_counts).to(device)

    def __call__(self, batch: TaskBatch) -> TermValue:
        """LMLE of the batch, by the table's clusters."""
        table, clusters = batch.clusters
        margins = lmle_margins(table.sizes, table.class_of, self._class_counts, share=self._share)
        value = lmle_loss(batch.output.embedding, clusters, batch.labels, margins[clusters])
        return TermValue(value, {"lmle": value})


SPEC = LossSpec(
    settings=LmleSettings,
    make_term=LmleTerm,
    needs_table=True,
    sampling="cluster",
    readout="knc_margin",
)
