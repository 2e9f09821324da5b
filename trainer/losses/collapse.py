"""Notices when all embeddings become one point, which margin losses can do silently.

Legend: N samples, D embedding.
"""

from __future__ import annotations

import math
from collections import deque

from torch import Tensor

# A collapsed loss sits at its plateau up to the noise of a batch.
_AT_PLATEAU = 0.95


def batch_spread(embeddings: Tensor) -> Tensor:
    """How far apart embeddings are: the mean of 1 - cosine over all ordered pairs.

    For unit vectors that is 1 - |mean|^2 (a sample's pair with itself counts, as 0), so no (N, N)
    matrix is needed.

    Args:
        embeddings: (N, D) floating point unit rows, N >= 1.

    Returns:
        Scalar float32 in [0, 1]: 0 = all are one point, 1 = their mean is the centre of the sphere.
    """
    return (1 - embeddings.detach().float().mean(dim=0).square().sum()).clamp(min=0.0)


def plateau_loss(
    *,
    num_other: float,
    num_same: float,
    scale: float,
    margin_between_rad: float,
    margin_within_rad: float,
    weight_within: float,
) -> float:
    """The CLMLE loss when every embedding and centroid is the same point.

    Args:
        num_other: candidate clusters of other classes that a sample has (may be a mean).
        num_same: candidate clusters of its class beside its own.
        scale: s of the loss.
        margin_between_rad: margin now in force, radians.
        margin_within_rad: margin now in force, radians.
        weight_within: weight of the within-class part.
    """

    def term(num_candidates: float, margin_rad: float) -> float:
        exponent = scale * (1 - math.cos(margin_rad))
        if num_candidates == 0:
            return 0.0
        # log(1 + n e^x) where e^x may overflow.
        return exponent + math.log(num_candidates + math.exp(-exponent))

    between, within = term(num_other, margin_between_rad), term(num_same, margin_within_rad)
    return between + weight_within * within


class CollapseDetector:
    """Speaks once when the embeddings have collapsed, and again only after a recovery.

    Collapsed means: in each of the last `window` updates the spread was below `threshold` and the
    loss at its plateau (or above). A small spread alone can still separate classes.
    """

    def __init__(self, *, window: int, threshold: float) -> None:
        """Start with an empty history.

        Args:
            window: updates in a row that must look collapsed, >= 1.
            threshold: spread (see `batch_spread`) below which embeddings are nearly one point.
        """
        self._recent: deque[bool] = deque(maxlen=window)
        self._threshold = threshold
        self._told = False

    def update(self, spread: float, loss: float, plateau: float) -> str | None:
        """Look at one more batch.

        Args:
            spread: `batch_spread` of its embeddings.
            loss: its CLMLE loss, without the softmax term.
            plateau: `plateau_loss` of its shape and the margins in force.

        Returns:
            What happened and what to change, or None.
        """
        self._recent.append(spread < self._threshold and loss >= _AT_PLATEAU * plateau)
        if not self._recent[-1]:
            self._told = False
        if self._told or len(self._recent) < (self._recent.maxlen or 0) or not all(self._recent):
            return None
        self._told = True
        return (
            f"the embeddings have collapsed to one point: spread {spread:.4f} (expected above "
            f"{self._threshold}) and loss {loss:.3f} at its plateau {plateau:.3f}, "
            f"{len(self._recent)} checks in a row. Going on rarely helps: start again with a "
            "larger loss.margin_anneal, a smaller loss.margin_between, a lower "
            "optim.learning_rate, or loss.weight_softmax 1"
        )
