"""k-means of one class by us and by others; each returns the mean cosine that it reaches.

Legend: n rows of the class, D embedding.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import faiss
import numpy as np
import numpy.typing as npt

from clustering.config import ClusterConfig
from clustering.kmeans.one_class import spherical_kmeans

Rows = npt.NDArray[np.float32]
ClassKMeans = Callable[[Rows, int, int], float]
"""(n, D) unit rows, number of clusters, seed -> mean cosine of a row and its centroid."""

ITERATIONS = 10


def installed() -> dict[str, ClassKMeans]:
    """Ours, and those of the others that are installed, by name."""
    found: dict[str, ClassKMeans] = {"ours": _ours, "faiss": _faiss, "sklearn": _sklearn}
    if importlib.util.find_spec("dask_ml"):
        found["dask"] = _dask
    else:
        print("one_class: Dask-ML is not installed, left out", file=sys.stderr)
    return found


def faiss_kmeans(rows: Rows, num_clusters: int, iterations: int, seed: int = 1) -> faiss.Kmeans:
    """FAISS's k-means of all rows, without its bounds on the rows of a cluster."""
    kmeans = faiss.Kmeans(
        rows.shape[1],
        num_clusters,
        niter=iterations,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=2**31 - 1,
    )
    kmeans.train(rows)
    return kmeans


@contextmanager
def faiss_threads(number: int) -> Iterator[None]:
    """Inside the block FAISS uses this many OpenMP threads."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _ours(rows: Rows, num_clusters: int, seed: int) -> float:
    config = ClusterConfig(iterations=ITERATIONS, tolerance=0.0)
    return spherical_kmeans(rows, num_clusters, config=config, seed=seed).objective


def _faiss(rows: Rows, num_clusters: int, seed: int) -> float:
    kmeans = faiss_kmeans(rows, num_clusters, ITERATIONS, seed)
    return float(kmeans.obj[-1]) / len(rows)  # type: ignore[index]


def _sklearn(rows: Rows, num_clusters: int, seed: int) -> float:
    """On one thread."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    model = KMeans(
        num_clusters, init="random", n_init=1, max_iter=ITERATIONS, tol=0.0, random_state=seed
    )
    with threadpool_limits(1):
        model.fit(rows)
    return _mean_cosine(rows, model.cluster_centers_, model.labels_)


def _dask(rows: Rows, num_clusters: int, seed: int) -> float:
    """On two threads, the rows in two chunks."""
    import dask.array
    from dask_ml.cluster import KMeans

    chunks = dask.array.from_array(rows, chunks=(-(-len(rows) // 2), rows.shape[1]))
    model = KMeans(num_clusters, init="random", max_iter=ITERATIONS, tol=0.0, random_state=seed)
    with dask.config.set(scheduler="threads", num_workers=2):
        model.fit(chunks)
        labels = np.asarray(model.labels_)
    return _mean_cosine(rows, model.cluster_centers_, labels)


def _mean_cosine(
    rows: Rows, centres: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
) -> float:
    directions = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    return float(np.einsum("nd,nd->n", rows, directions[labels]).mean())
