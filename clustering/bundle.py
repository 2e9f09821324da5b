"""What a worker does: read the embeddings of some classes and divide each class into clusters.

Legend: B classes of the bundle, P samples of them, D embedding, m clusters found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clustering.errors import ClusterError
from clustering.kmeans import KMeansResult, spherical_kmeans
from data_shards.embeddings import EmbeddingShards

ReadRows = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""(P,) row numbers -> (P, D) those rows."""

_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class BundleWork:
    """Classes to cluster, and where their embeddings are."""

    folder: str
    """The embedding shards, by a path that every worker sees."""
    classes: npt.NDArray[np.int64]
    """(B,)"""
    class_sizes: npt.NDArray[np.int64]
    """(B,) samples of each class."""
    num_clusters: npt.NDArray[np.int64]
    """(B,) wanted clusters of each class."""
    positions: npt.NDArray[np.int64]
    """(P,) row numbers in the embedding shards, class after class."""
    iterations: int
    seed: int

    def __str__(self) -> str:
        return (
            f"a bundle of {len(self.classes):,} classes (the first is {self.classes[0]}) and "
            f"{len(self.positions):,} samples"
        )


@dataclass(frozen=True, kw_only=True)
class BundleResult:
    """The clusters of a bundle, class after class."""

    class_of: npt.NDArray[np.int64]
    """(m,) class of each cluster."""
    centroids: npt.NDArray[np.float32]
    """(m, D) unit rows."""
    spread: npt.NDArray[np.float32]
    """(m,) mean angle between members and centroid, in radians."""
    concentration: npt.NDArray[np.float32]
    """(m,) length of the mean of the members."""
    assignment: npt.NDArray[np.int64]
    """(P,) cluster of each of the work's positions, 0 .. m - 1."""


def cluster_bundle(work: BundleWork) -> BundleResult:
    """Cluster the classes of a bundle; their vectors are read from memory-mapped shards.

    Raises:
        DataError: when a shard cannot be read.
        ClusterError: when an embedding is not a finite vector of length 1.
    """
    # Whoever planned the work has compared the checksums already.
    shards = EmbeddingShards.open(work.folder, verify=False)
    return cluster_classes(shards.rows, work)


def cluster_classes(read_rows: ReadRows, work: BundleWork) -> BundleResult:
    """Cluster the classes of a bundle, one at a time: memory holds the rows of one class.

    Args:
        read_rows: gathers rows by their numbers.
        work: what to cluster.

    Raises:
        ClusterError: when an embedding is not a finite vector of length 1.
    """
    results = []
    ends = np.cumsum(work.class_sizes)
    for number, class_ in enumerate(work.classes.tolist()):
        positions = work.positions[ends[number] - work.class_sizes[number] : ends[number]]
        rows = read_rows(positions)
        _check_rows(rows, positions, class_, work.folder)
        results.append(
            spherical_kmeans(
                rows,
                int(work.num_clusters[number]),
                iterations=work.iterations,
                seed=_class_seed(work.seed, class_),
            )
        )
    return _concatenate(work.classes, results)


def _class_seed(seed: int, class_: int) -> int:
    """A seed of the class's own, so that the other classes of its bundle do not matter."""
    state = np.random.SeedSequence([seed, class_]).generate_state(1)
    return int(state[0]) & 0x7FFFFFFF  # FAISS takes a signed int


def _concatenate(classes: npt.NDArray[np.int64], results: list[KMeansResult]) -> BundleResult:
    counts = np.array([len(result.centroids) for result in results])
    starts = np.cumsum(counts) - counts
    return BundleResult(
        class_of=np.repeat(classes, counts),
        centroids=np.concatenate([result.centroids for result in results]),
        spread=np.concatenate([result.spread for result in results]),
        concentration=np.concatenate([result.concentration for result in results]),
        assignment=np.concatenate(
            [start + result.assignment for start, result in zip(starts, results, strict=True)]
        ),
    )


def _check_rows(
    rows: npt.NDArray[np.float32], positions: npt.NDArray[np.int64], class_: int, folder: str
) -> None:
    squared = np.einsum("nd,nd->n", rows, rows)
    # A comparison with NaN is False, so this finds what is not finite too.
    good = np.abs(squared - 1.0) <= 2 * _UNIT_TOLERANCE
    if not good.all():
        raise ClusterError(
            f"class {class_}: {np.count_nonzero(~good)} of its {len(rows)} embeddings are not "
            f"finite vectors of length 1, the first is row {positions[np.argmin(good)]} of "
            f"{folder}; did the training diverge?"
        )
