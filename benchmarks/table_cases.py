"""The rest of clustering: the plan before k-means, the neighbour lists after it."""

from __future__ import annotations

import time

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks.measure import Figure, interleaved, sized
from clustering.config import ClusterConfig
from clustering.execution.plan import make_plan
from clustering.table.neighbours import neighbour_lists
from clustering.table.top_k import top_k

_WORKERS = 256
_NEIGHBOURS = 32
_CLUSTERS_PER_CLASS = 4
_EXACT_ROWS = 8192


def plan(scale: float) -> list[Figure]:
    """Plans for 1,000,000 classes on 256 workers: of at most 1,000 rows, and of up to 100,000."""
    rng = np.random.default_rng(0)
    sizes = rng.zipf(1.7, sized(1_000_000, scale, 10_000))
    figures = []
    for name, largest in (("plan", 1000), ("plan_of_large", 100_000)):
        config = ClusterConfig(target_size=10)
        class_sizes = np.minimum(sizes, largest)
        started = time.perf_counter()
        made = make_plan(
            class_sizes, config, num_workers=_WORKERS, dim=256, object_store_bytes=None
        )
        seconds = time.perf_counter() - started
        what = f"classes of at most {largest:,} rows, {_WORKERS} workers"
        figures += [
            Figure(f"{name}_seconds", seconds, "s", "< 10", made.summary()),
            Figure(f"{name}_balance", made.balance, "x", "<= 1.05", what),
        ]
    return figures


def neighbours(scale: float) -> list[Figure]:
    """Neighbours of 200,000 centroids of 24 intrinsic dimensions, approximate against exact.

    The exact lists of all would take many minutes, so those of evenly spread centroids are made,
    by the same call of FAISS on as many threads, in turns with the approximate lists of all.
    """
    num_clusters = sized(200_000, scale, 2000)
    centroids = _on_a_surface(num_clusters, dim=128, intrinsic_dim=24)
    class_of = np.arange(num_clusters) // _CLUSTERS_PER_CLASS
    sample = np.linspace(0, num_clusters - 1, min(_EXACT_ROWS, num_clusters)).astype(np.int64)
    queries = centroids[sample]
    lists: dict[str, npt.NDArray[np.int64]] = {}

    def approximate() -> None:
        lists["found"], _ = neighbour_lists(
            centroids, class_of, neighbours=_NEIGHBOURS, siblings=0, exact_up_to=0
        )

    def exact() -> None:
        num_searched = _NEIGHBOURS + _CLUSTERS_PER_CLASS + 1
        _, lists["nearest"] = faiss.knn(
            queries, centroids, num_searched, metric=faiss.METRIC_INNER_PRODUCT
        )

    seconds = interleaved({"approximate": approximate, "exact": exact}, repeats=3)
    of_all = seconds["exact"] * num_clusters / len(sample)
    detail = (
        f"{num_clusters:,} centroids: {seconds['approximate']:.1f} s, exact {of_all:.1f} s, that "
        f"is {seconds['exact']:.1f} s for {len(sample):,} of them; "
        f"{faiss.omp_get_max_threads()} threads"
    )
    return [
        Figure("neighbours_time", seconds["approximate"] / of_all, "x", "<= 0.2", detail),
        Figure(
            "neighbours_recall",
            _recall(lists["found"][sample], lists["nearest"], class_of, sample),
            "",
            ">= 0.98",
            f"recall@{_NEIGHBOURS} of other classes, of {len(sample):,} centroids",
        ),
        *_of_two_classes(sized(20_000, scale, 2000)),
    ]


def _of_two_classes(num_clusters: int) -> list[Figure]:
    """A binary attribute: half of the centroids are of the own class, and nearer than others."""
    centroids = _on_a_surface(num_clusters, dim=128, intrinsic_dim=24)
    of_two = np.arange(num_clusters) * 2 // num_clusters
    towards = np.random.default_rng(1).standard_normal((2, 128), dtype=np.float32)
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    centroids += towards[of_two]
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    of_many = np.arange(num_clusters) // _CLUSTERS_PER_CLASS
    lists: dict[str, npt.NDArray[np.int64]] = {}

    def approximate(name: str, class_of: npt.NDArray[np.int64]) -> None:
        lists[name], _ = neighbour_lists(
            centroids, class_of, neighbours=_NEIGHBOURS, siblings=0, exact_up_to=0
        )

    seconds = interleaved(
        {"two": lambda: approximate("two", of_two), "many": lambda: approximate("many", of_many)},
        repeats=3,
    )
    sample = np.linspace(0, num_clusters - 1, 1000).astype(np.int64)
    similarities = centroids[sample] @ centroids.T
    similarities[of_two[sample, np.newaxis] == of_two] = -np.inf
    nearest, _ = top_k(similarities, _NEIGHBOURS)
    return [
        Figure(
            "neighbours_of_two_classes_time",
            seconds["two"] / seconds["many"],
            "x",
            "",
            f"{num_clusters:,} centroids: {seconds['two']:.1f} s, in classes of "
            f"{_CLUSTERS_PER_CLASS} {seconds['many']:.1f} s",
        ),
        Figure(
            "neighbours_of_two_classes_recall",
            _recall(lists["two"][sample], nearest, of_two, sample),
            "",
            ">= 0.98",
            f"recall@{_NEIGHBOURS} of the other class, of {len(sample):,} centroids",
        ),
    ]


def _recall(
    found: npt.NDArray[np.int64],
    nearest: npt.NDArray[np.int64],
    class_of: npt.NDArray[np.int64],
    sample: npt.NDArray[np.int64],
) -> float:
    """Partition of the nearest of other classes, of those of any class, that were found."""
    shared = []
    for number, own, near in zip(sample.tolist(), found, nearest, strict=True):
        others = near[class_of[near] != class_of[number]][:_NEIGHBOURS]
        shared.append(len(np.intersect1d(own, others)))
    return float(np.mean(shared)) / _NEIGHBOURS


def _on_a_surface(num_rows: int, *, dim: int, intrinsic_dim: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((intrinsic_dim, dim), dtype=np.float32)
    rows = rng.standard_normal((num_rows, intrinsic_dim), dtype=np.float32) @ basis
    rows += 0.3 * intrinsic_dim**0.5 * rng.standard_normal((num_rows, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
