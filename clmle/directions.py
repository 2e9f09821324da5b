"""Embeddings of any length as rows of length 1. Legend: N rows, D embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.arrays import require_vectors

_SHORTEST = 1e-12  # torch's `normalize` scales up no further


def normalised(embeddings: Any) -> npt.NDArray[np.float32]:
    """Scale embeddings to length 1.

    Args:
        embeddings: (N, D) floating-point array, or a torch tensor on any device; N, D >= 1.

    Returns:
        (N, D) float32, a new array.

    Raises:
        DataError: not a two-dimensional array of floating-point numbers.
        ValueError: from `require_directions`.
    """
    rows = as_array(embeddings)
    require_vectors(rows)
    rows = rows.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    require_directions(lengths)
    unit: npt.NDArray[np.float32] = (rows / lengths[:, None]).astype(np.float32)
    return unit


def require_directions(lengths: npt.NDArray[np.floating]) -> None:
    """Refuse embeddings that are zero or not finite: they have no direction.

    Args:
        lengths: (N,) of each embedding.

    Raises:
        ValueError: naming the first.
    """
    usable = np.isfinite(lengths) & (lengths > _SHORTEST)
    if not usable.all():
        first = np.argmin(usable)
        raise ValueError(
            f"embedding {first} has length {lengths[first]}, so it has no direction; "
            f"{np.count_nonzero(~usable):,} of {len(usable):,} embeddings are zero or not finite"
        )


def as_array(values: Any) -> npt.NDArray[Any]:
    """NumPy's view of an array, a list or a torch tensor (without its gradient)."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":  # which NumPy does not have
            values = values.float()
    return np.asarray(values)
