"""A network's outputs for a micro-batch: the input of every loss and every read-out.

Legend: B images, C classes of a task, D embedding, V vectors per class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class TaskOutput(NamedTuple):
    """One task's outputs. A tuple, because ZeRO 3 finds the tensors in it only then."""

    embedding: Tensor
    """(B, D) float32 unit rows."""
    features: Tensor
    """(B, D) float32: the embedding before normalisation."""
    projection: Tensor
    """(B, D) float32 without a gradient: the features before BatchNorm, which would hide a collapse
    by spreading even a single point out."""
    logits: Tensor | None
    """(B, C) float32, or None without a classifier. With class vectors, the cosine to the nearest
    vector of each class."""
    class_vectors: Tensor | None = None
    """(C x V, D) float32 unit rows, the V vectors of a class side by side; None without them."""
    retrained_logits: Tensor | None = None
    """(B, C) float32 of the second classifier, which is trained on a frozen network; None without
    one."""
    logit_slopes: Tensor | None = None
    """(C, D) float32: how fast each logit of the linear head grows along the embedding, at the
    batch's mean length of the features; None unless `Network.give_slopes` was called."""
