"""Cross-entropy of a classifier, and its usual forms against imbalance.

Legend: N samples, C classes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data_shards.errors import ConfigError

Weighting = Literal["inverse", "effective_number"]
ClassWeight = Literal["none", Weighting]


def class_weights(
    class_counts: np.ndarray | Tensor, kind: Weighting, *, beta: float = 0.999
) -> Tensor:
    """Weigh classes by how rare they are.

    Args:
        class_counts: (C,) integers >= 1, training samples of each class.
        kind: "inverse" = 1/n; "effective_number" = (1 - beta) / (1 - beta^n),
            as in Cui et al., CVPR 2019: near 1/n for n << 1 / (1 - beta), constant far above.
        beta: in [0, 1), for "effective_number" only.

    Returns:
        (C,) float32 with mean 1 over the classes.

    Raises:
        ConfigError: a class has no sample, so its weight has no meaning.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    if (counts < 1).any():
        empty = int((counts < 1).nonzero()[0])
        raise ConfigError(
            f"class {empty} has no training sample, so loss.class_weight {kind} cannot weigh it; "
            "import the data again without that class, or set loss.class_weight to none"
        )
    if kind == "inverse":
        weights = 1 / counts
    else:
        weights = (1 - beta) / (1 - torch.as_tensor(beta, dtype=torch.float64) ** counts)
    return (weights / weights.mean()).float()


def softmax_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean cross-entropy, weighted by each sample's class.

    Args:
        logits: (N, C) floating point; computed in float32.
        labels: (N,) int64 in [0, C).
        weights: (C,) float32, or None for 1 each. The sum is divided by the samples' weights.

    Returns:
        Scalar float32.
    """
    return functional.cross_entropy(logits.float(), labels, weight=weights)


def focal_loss(logits: Tensor, labels: Tensor, weights: Tensor | None, *, gamma: float) -> Tensor:
    """Return the mean of (1 - p)^gamma (-log p), p of the sample's class (Lin et al., ICCV 2017).

    Args:
        logits: (N, C) floating point; computed in float32.
        labels: (N,) int64 in [0, C).
        weights: (C,) float32, or None for 1 each. The sum is divided by the samples' weights.
        gamma: >= 0; 0 is `softmax_loss`.

    Returns:
        Scalar float32.
    """
    log_p = functional.log_softmax(logits.float(), dim=1).gather(1, labels[:, None]).squeeze(1)
    # 1 - p by expm1, and not quite 0: there the slope of a power below 1 is infinite.
    remainder = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    losses = -(remainder**gamma) * log_p
    if weights is None:
        return losses.mean()
    return (losses * weights[labels]).sum() / weights[labels].sum()


def log_priors(class_counts: np.ndarray | Tensor) -> Tensor:
    """Log share of each class in the training images, for balanced softmax and logit adjustment.

    Added to the logits in training, and in training only, it makes up for the imbalance (Ren et
    al., NeurIPS 2020; times tau, Menon et al., ICLR 2021).

    Args:
        class_counts: (C,) integers >= 0, at least one above 0.

    Returns:
        (C,) float32; -inf for a class without images, which then is never predicted in training.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    return (counts / counts.sum()).log().float()


def margin_softmax_loss(
    cosines: Tensor, labels: Tensor, weights: Tensor | None, *, margins: Tensor, scale: float
) -> Tensor:
    """Return the cross-entropy of scaled cosines, each sample's own less the margin of its class.

    With `ldam_margins` it is LDAM (Cao et al., NeurIPS 2019).

    Args:
        cosines: (N, C) floating point cosines to the classes' vectors.
        labels: (N,) int64 in [0, C).
        weights: (C,) float32, or None for 1 each.
        margins: (C,) floating point differences of cosines.
        scale: s > 0.

    Returns:
        Scalar float32.
    """
    own = functional.one_hot(labels, cosines.shape[1]).to(cosines.dtype)
    return softmax_loss(scale * (cosines - own * margins), labels, weights)
