"""What k-means learns from the partitions of a class: sums, counts, and rows that may move.

Legend: D embedding, K clusters of the class, E rows that may move.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.kmeans.exact_sums import UNITS


@dataclass(frozen=True, slots=True)
class Totals:
    """How a call to a partition has changed the clusters.

    Those of all partitions and all calls add up to those of the class; before the first call no row
    is in a cluster.
    """

    sums: npt.NDArray[np.int64]
    """(K, D) sum of the members, in units of 2^-36."""
    counts: npt.NDArray[np.int64]
    """(K,) number of members."""
    objective: int
    """Sum of the cosines of the rows and their centroids, in units of 2^-36."""
    changed: int
    """How many rows came to another cluster."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.sums + other.sums,
            self.counts + other.counts,
            self.objective + other.objective,
            self.changed + other.changed,
        )

    @classmethod
    def nothing(cls, num_clusters: int, dim: int) -> Totals:
        """No row in any cluster, or no change."""
        sums = np.zeros((num_clusters, dim), dtype=np.int64)
        return cls(sums, np.zeros(num_clusters, dtype=np.int64), 0, 0)

    @property
    def mean_cosine(self) -> float:
        """Mean cosine of the rows and the centroids that they were compared with."""
        return self.objective / UNITS / int(self.counts.sum())


@dataclass(frozen=True, slots=True)
class Moves:
    """Rows that may go to another cluster; in each cluster, those that lose the least first."""

    source: npt.NDArray[np.int64]
    """(E,) cluster that the row is in, ascending."""
    loss: npt.NDArray[np.float32]
    """(E,) cosine with its own centroid minus that with the other, ascending within a cluster."""
    position: npt.NDArray[np.int64]
    """(E,) row of the class."""
    target: npt.NDArray[np.int64]
    """(E,) cluster that it would go to."""

    @classmethod
    def none(cls) -> Moves:
        """No row may move."""
        no_rows = np.empty(0, dtype=np.int64)
        return cls(no_rows, no_rows.astype(np.float32), no_rows, no_rows)

    def cut(self, limits: npt.NDArray[np.int64]) -> Moves:
        """Sort, and keep at most `limits` (K,) rows of each cluster."""
        order = np.lexsort((self.position, self.loss, self.source))
        source = self.source[order]
        rank = np.arange(len(source)) - np.searchsorted(source, source)
        order = order[rank < limits[source]]
        return Moves(self.source[order], self.loss[order], self.position[order], self.target[order])

    @classmethod
    def of_all(cls, parts: list[Moves], limits: npt.NDArray[np.int64]) -> Moves:
        """Join those of several partitions or chunks."""
        joined = [
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("source", "loss", "position", "target")
        ]
        return cls(*joined).cut(limits)
