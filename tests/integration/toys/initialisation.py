"""A toy rule for the first centroids of k-means: the first rows of the class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clustering.initialisation import Initialisation, Start


def first_rows(start: Start) -> npt.NDArray[np.float32]:
    """(K, D) float32."""
    return start.read_rows(np.arange(start.num_clusters))


INITIALISATION = Initialisation(first_rows)
