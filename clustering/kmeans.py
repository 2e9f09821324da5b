"""Spherical k-means of one class whose rows fit in memory.

The same rows, settings and seed give the same clusters to the last bit, in any process and with any
number of threads; another kind of CPU or another release of FAISS may round differently.

Legend: n rows of the class, D embedding, K clusters of the class.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

try:
    import faiss
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "k-means needs faiss: install the extra cpu (faiss-cpu) or gpu (faiss-gpu), never both"
    ) from error

BACKEND = f"faiss-cpu {faiss.__version__}"
"""What computes the clusters, for a table's stats."""

_ALL_POINTS = 2**31 - 1  # FAISS otherwise trains on 256 rows a cluster, without a word
_REPAIRS = 4  # rounds; with few duplicates one is enough
_SAME_COSINE = 1.0 - 1e-6  # of a row and its own centroid, up to rounding
_CANCELLED = 1e-6  # a mean of unit rows shorter than this has no direction


@dataclass(frozen=True)
class KMeansResult:
    """The clusters of a class; numbered by their first member, none of them empty."""

    centroids: npt.NDArray[np.float32]
    """(K, D) unit rows: the direction of the mean of the members."""
    assignment: npt.NDArray[np.int64]
    """(n,) cluster of each row, 0 .. K - 1."""
    spread: npt.NDArray[np.float32]
    """(K,) mean angle between members and centroid, in radians."""
    concentration: npt.NDArray[np.float32]
    """(K,) length of the mean of the members, in [0, 1]."""
    objective: float
    """Mean cosine of a row and its centroid, in [-1, 1]; k-means maximises it."""
    iterations: int
    """Iterations made; 0 for a single cluster, which is a mean."""


def spherical_kmeans(
    rows: npt.NDArray[np.float32], num_clusters: int, *, iterations: int, seed: int
) -> KMeansResult:
    """Divide the rows of a class into clusters by direction.

    Each row belongs to the nearest of FAISS's final centroids. A centroid without a row starts
    anew at the row that is farthest from its own centroid; where no row is far from its own, as
    with fewer distinct rows than clusters, it is dropped. What is returned as centroid is the
    direction of the mean of the members, so that a table's centroids, members and spreads fit
    together exactly; a row at a border may therefore be a little nearer to another one.

    Args:
        rows: (n, D) float32, finite unit rows.
        num_clusters: wanted K, 1 <= K <= n.
        iterations: iterations of k-means, >= 1.
        seed: of the random rows to start from, >= 0.

    Returns:
        At most `num_clusters` clusters.

    Raises:
        ValueError: when the number of clusters does not fit the rows.
    """
    if not 1 <= num_clusters <= len(rows):
        raise ValueError(
            f"the number of clusters must be in 1..{len(rows)} for {len(rows)} rows, "
            f"got {num_clusters}"
        )
    if num_clusters == 1:
        return _describe(rows, np.zeros(len(rows), dtype=np.int64), iterations=0)
    rows = np.ascontiguousarray(rows)
    with _one_thread():
        centroids = _train(rows, num_clusters, iterations, seed)
        assignment = _assign(rows, centroids)
    return _describe(rows, _by_first_member(assignment), iterations)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One OpenMP thread: on classes of a few hundred rows several are 30 times slower."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _train(
    rows: npt.NDArray[np.float32], num_clusters: int, iterations: int, seed: int
) -> npt.NDArray[np.float32]:
    """(K, D) centroids of FAISS, unit rows unless the members of one cancel out."""
    kmeans = faiss.Kmeans(
        rows.shape[1],
        num_clusters,
        niter=iterations,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=_ALL_POINTS,
    )
    kmeans.train(rows)
    return np.asarray(kmeans.centroids, dtype=np.float32)


def _assign(
    rows: npt.NDArray[np.float32], centroids: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """(n,) nearest centroid of each row; centroids that got no row start anew before."""
    centroids = centroids.copy()
    for _ in range(_REPAIRS):
        assignment, cosines = _nearest(rows, centroids)
        sizes = np.bincount(assignment, minlength=len(centroids))
        empty = np.flatnonzero(sizes == 0)
        seeds = np.flatnonzero((cosines < _SAME_COSINE) & (sizes[assignment] > 1))
        num_seeds = min(len(empty), len(seeds))
        if not num_seeds:
            break
        seeds = seeds[np.argsort(cosines[seeds], kind="stable")]
        centroids[empty[:num_seeds]] = rows[seeds[:num_seeds]]
    return assignment


def _nearest(
    rows: npt.NDArray[np.float32], centroids: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    index = faiss.IndexFlatIP(centroids.shape[1])
    index.add(centroids)
    cosines, nearest = index.search(rows, 1)
    return nearest[:, 0], cosines[:, 0]


def _by_first_member(assignment: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Number the clusters that have members by the position of the first of them."""
    _, first, compact = np.unique(assignment, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[compact]


def _describe(
    rows: npt.NDArray[np.float32], assignment: npt.NDArray[np.int64], iterations: int
) -> KMeansResult:
    """Compute what there is to know of clusters that have at least one member each."""
    sizes = np.bincount(assignment)
    by_cluster = np.argsort(assignment, kind="stable")
    ends = np.cumsum(sizes)
    centroids = np.empty((len(sizes), rows.shape[1]), dtype=np.float32)
    spread = np.empty(len(sizes), dtype=np.float32)
    lengths = np.empty(len(sizes))
    for cluster, (start, end) in enumerate(zip(ends - sizes, ends, strict=True)):
        members = rows[by_cluster[start:end]]
        mean = members.mean(axis=0, dtype=np.float64)
        length = float(np.linalg.norm(mean))
        lengths[cluster] = min(length, 1.0)
        centroids[cluster] = members[0] if length < _CANCELLED else mean / length
        # einsum, as a matrix product may round differently with another number of threads
        cosines = np.einsum("nd,d->n", members, centroids[cluster], dtype=np.float64)
        spread[cluster] = np.arccos(np.clip(cosines, -1.0, 1.0)).mean()
    return KMeansResult(
        centroids=centroids,
        assignment=assignment,
        spread=spread,
        concentration=lengths.astype(np.float32),
        # A cluster's rows have the mean cosine |mean| with the direction of their mean.
        objective=float(lengths @ sizes / len(rows)),
        iterations=iterations,
    )
