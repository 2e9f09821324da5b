"""Cross-entropy of a linear head, with the usual class weights against imbalance.

Legend: N samples, C classes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainer.errors import ConfigError

ClassWeight = Literal["none", "inverse", "effective_number"]


def class_weights(
    class_counts: np.ndarray | Tensor, kind: ClassWeight, *, beta: float = 0.999
) -> Tensor:
    """Weigh classes by how rare they are.

    Args:
        class_counts: (C,) integers >= 1, training samples of each class.
        kind: "none" = 1 for each; "inverse" = 1/n; "effective_number" = (1 - beta) / (1 - beta^n),
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
    if kind == "none":
        weights = torch.ones_like(counts)
    elif kind == "inverse":
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
