"""Embeddings as the other packages want them. Legend: N rows, D embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def unit_rows(embeddings: Any) -> npt.NDArray[np.float32]:
    """Normalise embeddings.

    Args:
        embeddings: (N, D) floating-point array, or a torch tensor on any device; N, D >= 1.

    Returns:
        (N, D) float32, a new array of rows of length 1.

    Raises:
        TypeError: not a two-dimensional array of floating-point numbers.
        ValueError: a row is not finite or is zero, which has no direction.
    """
    rows = as_array(embeddings)
    if rows.ndim != 2 or not rows.size or not np.issubdtype(rows.dtype, np.floating):
        raise TypeError(
            "embeddings must be a floating-point array of shape (N, D), "
            f"got {rows.dtype} of shape {rows.shape}"
        )
    rows = rows.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    usable = np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)
    if not usable.all():
        raise ValueError(
            f"embedding {np.argmin(usable)} has length {lengths[np.argmin(usable), 0]}, so it has "
            f"no direction, nor have {np.count_nonzero(~usable) - 1} others"
        )
    unit: npt.NDArray[np.float32] = (rows / lengths).astype(np.float32)
    return unit


def as_array(values: Any) -> npt.NDArray[Any]:
    """NumPy's view of an array, a list or a torch tensor (without its gradient)."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    return np.asarray(values)
