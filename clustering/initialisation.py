"""How k-means of a class chooses its first centroids: one function and one line a rule.

`cluster.init` is the name of a rule in `INITIALISATIONS`. A new rule is a function that takes a
`Start` and returns centroids, and an entry in that table. This file is below the settings, which
are checked against it.

Legend: n rows of the class, D embedding, K clusters wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ReadRows = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""(E,) ascending row numbers of the class -> (E, D) those rows."""

# k-means++ chooses among so many random rows for each cluster: more cost time and gain little.
_CANDIDATES_PER_CLUSTER = 8
_FEWEST_CANDIDATES = 256


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a rule may use."""

    read_rows: ReadRows
    num_rows: int
    """n."""
    num_clusters: int
    """K, 2 <= K <= n."""
    rng: np.random.Generator
    """Of the class's own; the only source of randomness."""
    previous: npt.NDArray[np.float32] | None = None
    """(any, D) centroids of the class in the previous table, that of the largest cluster first;
    None without one, and for a rule that does not use them."""

    def random_rows(self, number: int) -> npt.NDArray[np.float32]:
        """(number, D) different random rows, number <= n."""
        chosen = self.rng.choice(self.num_rows, number, replace=False, shuffle=False)
        return self.read_rows(np.sort(chosen))


@dataclass(frozen=True)
class Initialisation:
    """A rule."""

    choose: Callable[[Start], npt.NDArray[np.float32]]
    """Returns (K, D) float32 centroids. They must depend on nothing but the start."""
    uses_previous: bool = False
    """Whether it is given the centroids of the previous table."""


def initial_centroids(
    init: str,
    read_rows: ReadRows,
    num_rows: int,
    num_clusters: int,
    *,
    seed: int,
    previous: npt.NDArray[np.float32] | None,
) -> npt.NDArray[np.float32]:
    """Choose the first centroids of a class.

    Args:
        init: name of the rule, a key of `INITIALISATIONS`.
        read_rows: reads rows of the class.
        num_rows: n.
        num_clusters: K, 2 <= K <= n.
        seed: of the choice, >= 0.
        previous: (any, D) float32 centroids of the previous table; None without one.

    Returns:
        (K, D) float32.
    """
    start = Start(
        read_rows=read_rows,
        num_rows=num_rows,
        num_clusters=num_clusters,
        rng=np.random.default_rng(seed),
        previous=previous,
    )
    return INITIALISATIONS[init].choose(start)


def _random(start: Start) -> npt.NDArray[np.float32]:
    return start.random_rows(start.num_clusters)


def _kmeans_plus_plus(start: Start) -> npt.NDArray[np.float32]:
    """k-means++ (Arthur and Vassilvitskii, 2007): each next row by its squared distance."""
    wanted = max(_FEWEST_CANDIDATES, _CANDIDATES_PER_CLUSTER * start.num_clusters)
    rows = start.random_rows(min(wanted, start.num_rows))
    rng = start.rng
    chosen = [int(rng.integers(len(rows)))]
    # A unit row has the squared distance 2 - 2 cosine; the factor does not matter.
    distances = np.full(len(rows), np.inf)
    while len(chosen) < start.num_clusters:
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


def _warm(start: Start) -> npt.NDArray[np.float32]:
    """The centroids of the previous table, and random rows where there are too few."""
    if start.previous is None or not len(start.previous):
        return _random(start)
    kept = start.previous[: start.num_clusters]
    if len(kept) == start.num_clusters:
        return kept.copy()
    return np.concatenate([kept, start.random_rows(start.num_clusters - len(kept))])


INITIALISATIONS: dict[str, Initialisation] = {
    "random": Initialisation(_random),
    "kmeans++": Initialisation(_kmeans_plus_plus),
    "warm": Initialisation(_warm, uses_previous=True),
}
"""Rules by the name that `cluster.init` has."""
