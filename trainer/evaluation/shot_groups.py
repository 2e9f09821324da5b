"""Classes grouped by their number of training images, as papers on long tails do.

Legend: C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MANY, FEW = 100, 20
"""Training images of a class: more than MANY, or fewer than FEW."""
SHOT_GROUPS = ("many", "medium", "few")
"""Keys of `shot_groups`."""


def shot_groups(class_sizes: npt.NDArray[np.integer]) -> dict[str, npt.NDArray[np.bool_]]:
    """Group classes by their number of training images.

    Args:
        class_sizes: (C,) training images of each class.

    Returns:
        "many" (more than 100), "medium" (20 to 100) and "few" (fewer than 20) -> (C,) bool.
    """
    return {
        "many": class_sizes > MANY,
        "medium": (class_sizes >= FEW) & (class_sizes <= MANY),
        "few": class_sizes < FEW,
    }


def mean_recall(recall: Sequence[float | None], classes: npt.NDArray[np.integer]) -> float | None:
    """Mean recall of some classes; None when none of them has test images.

    Args:
        recall: C recalls in [0, 1]; None for a class without a test image.
        classes: their numbers, in [0, C).
    """
    known = [value for c in classes if (value := recall[c]) is not None]
    return float(np.mean(known)) if known else None
