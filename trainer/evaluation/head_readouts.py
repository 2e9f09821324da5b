"""Read-outs by a classifier: its own logits, corrected ones, those of the second classifier.

Legend: N queries, C classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.evaluation.readout import IntArray, Queries, needed
from trainer.losses.softmax import log_priors


def head(queries: Queries) -> IntArray:
    """The class with the largest logit."""
    return _largest(needed(queries.output).logits)


def head_tau(queries: Queries) -> IntArray:
    """As `head`, with the norms of the classes' weights evened out."""
    context = queries.context
    return _largest(context.head.tau_logits(needed(queries.output), context.config.tau))


def head_adjusted(queries: Queries) -> IntArray:
    """As `head`, after `adjusted_logits`."""
    context, logits = queries.context, needed(needed(queries.output).logits)
    strength = context.config.head_adjustment
    return _largest(adjusted_logits(logits, context.class_counts, strength))


def head_retrained(queries: Queries) -> IntArray:
    """The class with the largest logit of the second classifier."""
    return _largest(needed(queries.output).retrained_logits)


def adjusted_logits(logits: Tensor, class_counts: npt.NDArray[np.int64], strength: float) -> Tensor:
    """Take the imbalance of the training images out of a classifier's logits.

    Post-hoc logit adjustment (Menon et al., ICLR 2021).

    Args:
        logits: (N, C) floating point, trained without an adjustment.
        class_counts: (C,) training images of each class, at least one above 0.
        strength: tau, >= 0; 1 makes up for the imbalance where the logits are calibrated.

    Returns:
        (N, C) float32: logits less tau times the log of the class's share of the training images;
        -inf for a class without any: no training image ever lowered its logit, so it means nothing.
    """
    log_shares = log_priors(class_counts).to(logits.device)
    adjusted = logits.float() - strength * log_shares
    return adjusted.masked_fill(log_shares.isneginf(), -torch.inf)


def _largest(logits: Tensor | None) -> IntArray:
    predicted: IntArray = needed(logits).argmax(dim=1).cpu().numpy()
    return predicted
