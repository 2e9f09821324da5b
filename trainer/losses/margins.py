"""Angular margins, and margins that are larger for rare classes. Legend: N samples, C classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainer.losses.lazy_torch import torch

if TYPE_CHECKING:
    from torch import Tensor

# Keeps the slope of sqrt finite where an embedding lies on its centroid.
_SMALLEST_SQUARED_SINE = 1e-12
# Just below pi/2: a larger angular margin would push away from the sample's own cluster.
LARGEST_MARGIN_RAD = 1.5


def angular_margin_cosine(cosine: Tensor, margin_rad: Tensor | float) -> Tensor:
    """Return cos(theta + margin), continued so that it falls for every angle.

    Beyond theta + margin = pi the cosine itself would rise again, and so would reward the worst
    samples; there it continues as -2 - cos(theta + margin), with the same value and slope at pi.

    Args:
        cosine: (N,) floating point cosines of theta; rounding beyond [-1, 1] is harmless.
        margin_rad: radians in [0, pi], a number or (N,).

    Returns:
        (N,) in [-3, 1], with a finite gradient everywhere.
    """
    margin = torch.as_tensor(margin_rad, dtype=cosine.dtype, device=cosine.device)
    sine = (1 - cosine.square()).clamp(min=_SMALLEST_SQUARED_SINE).sqrt()
    shifted = cosine * margin.cos() - sine * margin.sin()
    return torch.where(cosine >= -margin.cos(), shifted, -2 - shifted)


def rare_class_margins(class_counts: np.ndarray, margin_rad: float, *, exponent: float) -> Tensor:
    """Let an angular margin grow with the rarity of the class.

    Args:
        class_counts: (C,) training images of each class.
        margin_rad: m, of the largest class, in radians.
        exponent: a >= 0.

    Returns:
        (C,) float32 radians: min(m (n_max / n_c)^a, 1.5). A class without images counts as of one.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64).clamp(min=1)
    margins = margin_rad * (counts.max() / counts) ** exponent
    return margins.clamp(max=max(margin_rad, LARGEST_MARGIN_RAD)).float()


def ldam_margins(class_counts: np.ndarray, largest: float) -> Tensor:
    """Label-distribution-aware margins: in proportion to n_c^(-1/4) (Cao et al., NeurIPS 2019).

    Args:
        class_counts: (C,) training images of each class.
        largest: margin of the rarest class, as a difference of cosines.

    Returns:
        (C,) float32 in (0, largest]. A class without images counts as of one.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64).clamp(min=1)
    return (largest * (counts.min() / counts) ** 0.25).float()
