"""The centroids that k-means of a class starts from.

Legend: n rows of the class, D embedding, K clusters wanted.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from clustering.config import Init

Take = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""(E,) ascending rows of the class -> (E, D) those rows."""

# k-means++ chooses among so many random rows for each cluster: more cost time and gain little.
_CANDIDATES_PER_CLUSTER = 8
_FEWEST_CANDIDATES = 256


def initial_centroids(
    take: Take,
    num_rows: int,
    num_clusters: int,
    init: Init,
    *,
    seed: int,
    warm: npt.NDArray[np.float32] | None,
) -> npt.NDArray[np.float32]:
    """Choose where to start.

    Args:
        take: looks up rows of the class.
        num_rows: n.
        num_clusters: K, 2 <= K <= n.
        init: random rows, rows far from each other, or earlier centroids. Where there are fewer of
            those than wanted, random rows are added.
        seed: of the choice, >= 0.
        warm: (any, D) float32 earlier centroids, for `init` warm.

    Returns:
        (K, D) float32.
    """
    rng = np.random.default_rng(seed)
    if init == "kmeans++":
        wanted = max(_FEWEST_CANDIDATES, _CANDIDATES_PER_CLUSTER * num_clusters)
        candidates = _random_rows(take, num_rows, min(wanted, num_rows), rng)
        return _far_apart(candidates, num_clusters, rng)
    if init == "warm" and warm is not None and len(warm):
        kept = warm[:num_clusters]
        if len(kept) == num_clusters:
            return kept.copy()
        added = _random_rows(take, num_rows, num_clusters - len(kept), rng)
        return np.concatenate([kept, added])
    return _random_rows(take, num_rows, num_clusters, rng)


def _random_rows(
    take: Take, num_rows: int, num_wanted: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    return take(np.sort(rng.choice(num_rows, num_wanted, replace=False, shuffle=False)))


def _far_apart(
    rows: npt.NDArray[np.float32], num_clusters: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """k-means++ (Arthur and Vassilvitskii, 2007): each next row by its squared distance."""
    chosen = [int(rng.integers(len(rows)))]
    # A unit row has the squared distance 2 - 2 cosine; the factor does not matter.
    distances = np.full(len(rows), np.inf)
    while len(chosen) < num_clusters:
        # einsum, as a matrix product may round differently with another number of threads
        cosines = np.einsum("nd,d->n", rows, rows[chosen[-1]])
        distances = np.minimum(distances, np.maximum(1.0 - cosines, 0.0))
        distances[chosen[-1]] = 0.0
        ends = np.cumsum(distances)
        if ends[-1] > 0:
            chosen.append(int(np.searchsorted(ends, rng.random() * ends[-1], side="right")))
        else:  # only duplicates are left
            chosen.append(int(rng.integers(len(rows))))
    return rows[chosen]
