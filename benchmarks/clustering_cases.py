"""k-means of classes of every size: each case makes its data, measures, and returns figures."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks.measure import (
    Figure,
    blobs,
    interleaved,
    local_ray,
    peak_memory,
    sized,
    write_embeddings,
)
from clustering.config import ClusterConfig, TransportChoice
from clustering.coordinator import cluster_embeddings
from clustering.kmeans import spherical_kmeans
from clustering.table import ClusterTable
from clustering.tasks import run_tasks


def one_class(scale: float) -> list[Figure]:
    """One class of 100,000 rows in 500 clusters, one thread."""
    num_rows, num_clusters = sized(100_000, scale, 200), sized(500, scale, 4)
    labels = np.zeros(num_rows, dtype=np.int64)
    rows = blobs(labels, dim=128, rows_per_blob=num_rows // num_clusters)
    config = ClusterConfig(iterations=10, tolerance=0.0)
    objectives: dict[str, list[float]] = {"ours": [], "faiss": [], "sklearn": [], "dask": []}

    def ours() -> None:
        seed = len(objectives["ours"])
        result = spherical_kmeans(rows, num_clusters, config=config, seed=seed)
        objectives["ours"].append(result.objective)

    def theirs() -> None:
        kmeans = _faiss_kmeans(rows, num_clusters, 10, seed=len(objectives["faiss"]))
        objectives["faiss"].append(float(kmeans.obj[-1]) / num_rows)  # type: ignore[index]

    def sklearn() -> None:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            model = KMeans(num_clusters, init="random", n_init=1, max_iter=10, tol=0.0).fit(rows)
        objectives["sklearn"].append(_mean_cosine(rows, model.cluster_centers_, model.labels_))

    functions: dict[str, Callable[[], object]] = {"ours": ours, "faiss": theirs, "sklearn": sklearn}
    if importlib.util.find_spec("dask_ml"):
        functions["dask"] = lambda: objectives["dask"].append(_dask_objective(rows, num_clusters))
    else:
        print("one_class: Dask-ML is not installed, left out", file=sys.stderr)
    faiss.omp_set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sklearn says that it did not converge in 10 iterations
        seconds = interleaved(functions, repeats=5)
    faiss.omp_set_num_threads(_DEFAULT_THREADS)
    mean = {name: float(np.mean(objectives[name])) for name in functions}
    detail = f"ours {seconds['ours']:.2f} s, FAISS {seconds['faiss']:.2f} s, one thread"
    peers = {"sklearn": "scikit-learn", "dask": "Dask-ML, 2 threads"}
    return [
        Figure("one_class_vs_faiss", seconds["ours"] / seconds["faiss"], "x", "<= 1.10", detail),
        Figure(
            "one_class_objective",
            mean["ours"] / mean["faiss"],
            "x",
            ">= 0.995",
            f"mean cosine: ours {mean['ours']:.4f}, FAISS {mean['faiss']:.4f}, 5 seeds",
        ),
        *(
            Figure(
                f"one_class_vs_{name}",
                seconds["ours"] / seconds[name],
                "x",
                "",
                f"{peers[name]} {seconds[name]:.2f} s, mean cosine {mean[name]:.4f}",
            )
            for name in peers
            if name in functions
        ),
    ]


def two_workers(scale: float) -> list[Figure]:
    """The same class through Ray, by one and by two workers, which take turns."""
    num_rows = sized(100_000, scale, 20_000)
    labels = np.zeros(num_rows, dtype=np.int64)
    per_cluster = 200
    rows = blobs(labels, dim=128, rows_per_blob=per_cluster)
    tables: dict[int, ClusterTable] = {}
    with tempfile.TemporaryDirectory() as folder, local_ray(2):
        write_embeddings(Path(folder), rows, labels)

        def cluster(num_workers: int) -> None:
            config = _plain(per_cluster, num_workers=num_workers)
            tables[num_workers] = cluster_embeddings(
                folder, task="identity", version=0, num_classes=1, config=config, seed=0
            )

        cluster(2)
        load = interleaved({"one": lambda: cluster(1), "two": lambda: cluster(2)}, repeats=9)
    one, two = load["one"], load["two"]
    _assert_same(tables[1], tables[2])
    detail = f"{one:.2f} s -> {two:.2f} s, the same table; checksums and all included"
    return [Figure("two_workers_vs_one", two / one, "x", "<= 0.58", detail)]


def many_classes(scale: float) -> list[Figure]:
    """50,000 classes of 2-500 rows, P(n) ~ n^-2, end to end through Ray."""
    rng = np.random.default_rng(0)
    sizes = np.arange(2, 501)
    shares = 1.0 / sizes**2
    class_sizes = rng.choice(sizes, sized(50_000, scale, 50), p=shares / shares.sum())
    labels = np.repeat(np.arange(len(class_sizes)), class_sizes)
    rows = blobs(labels, dim=256, rows_per_blob=10)
    ends = np.cumsum(class_sizes)
    wanted = np.maximum(1, np.rint(class_sizes / 10)).astype(np.int64)

    def loop(num_threads: int, part: slice) -> None:
        faiss.omp_set_num_threads(num_threads)
        for end, size, num_clusters in zip(
            ends[part], class_sizes[part], wanted[part], strict=True
        ):
            _faiss_kmeans(rows[end - size : end], int(num_clusters), 20)
        faiss.omp_set_num_threads(_DEFAULT_THREADS)

    config = ClusterConfig(samples_per_cluster=10, neighbours=0, siblings=0)
    with tempfile.TemporaryDirectory() as folder, local_ray(2):
        write_embeddings(Path(folder), rows, labels)

        def ours() -> None:
            cluster_embeddings(
                folder,
                task="identity",
                version=0,
                num_classes=len(class_sizes),
                config=config,
                seed=0,
            )

        ours()  # the first starts Ray's worker processes
        seconds = interleaved(
            {
                "ours": ours,
                "one thread": lambda: loop(1, slice(None)),
                # On a busy machine all of them would take many minutes.
                "default threads": lambda: loop(_DEFAULT_THREADS, slice(None, None, _EVERY)),
            },
            repeats=3,
        )
    seconds["default threads"] *= _EVERY
    data = f"{len(labels):,} rows, ours {seconds['ours']:.2f} s"
    return [
        Figure(
            "many_classes_vs_default_threads",
            seconds["ours"] / seconds["default threads"],
            "x",
            "<= 0.10",
            f"{data}, FAISS loop {seconds['default threads']:.1f} s, {_DEFAULT_THREADS} threads, "
            f"measured on every {_EVERY}th class",
        ),
        Figure(
            "many_classes_vs_one_thread",
            seconds["ours"] / seconds["one thread"],
            "x",
            "<= 0.75",
            f"{data}, FAISS loop {seconds['one thread']:.2f} s",
        ),
    ]


def mixed_classes(scale: float) -> list[Figure]:
    """2,000,000 rows of mixed classes: overhead, memory of the driver, both ways of the rows.

    All tables but the first continue its numbers.
    """
    class_sizes = _mixed_sizes(sized(2_000_000, scale, 20_000))
    labels = np.repeat(np.arange(len(class_sizes)), class_sizes)
    rows = blobs(labels, dim=128, rows_per_blob=100)
    num_bytes = rows.nbytes
    tables: dict[str, ClusterTable] = {}
    first_table: list[ClusterTable] = []
    overheads: dict[str, list[float]] = {"shared_files": [], "object_store": []}
    peaks: list[int] = []
    with tempfile.TemporaryDirectory() as folder, local_ray(2, store_bytes=1 << 30):
        write_embeddings(Path(folder), rows, labels)
        del rows, labels
        # As where the embeddings were made: Ray's processes are there, but have imported little.
        list(run_tasks(_sleep, [0.5] * 2, num_at_once=2, config=ClusterConfig()))

        def cluster(transport: TransportChoice) -> None:
            with peak_memory() as grown:
                started = time.perf_counter()
                table = cluster_embeddings(
                    folder,
                    task="identity",
                    version=0,
                    num_classes=len(class_sizes),
                    config=_plain(100, transport=transport),
                    seed=0,
                    previous=first_table[0] if first_table else None,
                )
                seconds = time.perf_counter() - started
                peaks.append(grown())
            busy = float(table.stats["worker_seconds"])
            overheads[transport].append(1.0 - busy / (2 * seconds))
            tables[transport] = table
            if not first_table:
                first_table.append(table)

        seconds = interleaved(
            {
                "shared_files": lambda: cluster("shared_files"),
                "object_store": lambda: cluster("object_store"),
            },
            repeats=3,
        )
    files, store = tables["shared_files"], tables["object_store"]
    _assert_same(files, store)
    ratio = seconds["object_store"] / seconds["shared_files"]
    what = (
        f"{class_sizes.sum():,} rows, {len(class_sizes):,} classes, {files.num_clusters:,} clusters"
    )
    first, *later = overheads["shared_files"]
    runs = ", ".join(f"{share:.2f}" for share in later)
    return [
        Figure(
            "overhead_share",
            first,
            "",
            "<= 0.15",
            f"{what}: of 2 workers' time, not in checking, reading and arithmetic; the first table "
            f"of the processes, later ones {runs}",
        ),
        Figure(
            "driver_memory_share",
            max(peaks) / num_bytes,
            "",
            "<= 0.10",
            f"driver grew by {max(peaks) / 2**20:.0f} MiB, at most, for "
            f"{num_bytes / 2**20:.0f} MiB of embeddings",
        ),
        Figure(
            "object_store_vs_shared_files",
            ratio,
            "x",
            "",
            f"{seconds['object_store']:.1f} s and {seconds['shared_files']:.1f} s, the same table; "
            "one machine, files in its page cache",
        ),
    ]


def beyond_memory(scale: float) -> list[Figure]:
    """One class 4 times larger than the memory of both workers together; the same table."""
    memory_mib = 8
    num_rows = 4 * 2 * memory_mib * 2**20 // (4 * 128)
    num_rows = max(20_000, int(num_rows * min(scale, 1.0)))
    labels = np.zeros(num_rows, dtype=np.int64)
    rows = blobs(labels, dim=128, rows_per_blob=1000)
    tables: dict[str, ClusterTable] = {}
    with tempfile.TemporaryDirectory() as folder, local_ray(2):
        write_embeddings(Path(folder), rows, labels)

        def cluster(name: str, config: ClusterConfig) -> None:
            tables[name] = cluster_embeddings(
                folder, task="identity", version=0, num_classes=1, seed=0, config=config
            )

        bounded = _plain(1000, memory_mib_per_worker=memory_mib)
        cluster("roomy", _plain(1000))
        seconds = interleaved(
            {
                "roomy": lambda: cluster("roomy", _plain(1000)),
                "bounded": lambda: cluster("bounded", bounded),
            },
            repeats=3,
        )
    _assert_same(tables["bounded"], tables["roomy"])
    ratio = seconds["bounded"] / seconds["roomy"]
    detail = (
        f"{rows.nbytes / 2**20:.0f} MiB, {memory_mib} MiB a worker: {seconds['bounded']:.2f} s, "
        f"all held: {seconds['roomy']:.2f} s, the same table"
    )
    return [Figure("beyond_memory", ratio, "x", "same", detail)]


_EVERY = 50
_DEFAULT_THREADS = faiss.omp_get_max_threads()


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def _plain(samples_per_cluster: int, **others: int | str) -> ClusterConfig:
    return ClusterConfig(
        samples_per_cluster=samples_per_cluster,
        iterations=10,
        tolerance=0.0,
        neighbours=0,
        siblings=0,
        **others,  # type: ignore[arg-type]
    )


def _faiss_kmeans(
    rows: npt.NDArray[np.float32], num_clusters: int, iterations: int, seed: int = 1
) -> faiss.Kmeans:
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


def _dask_objective(rows: npt.NDArray[np.float32], num_clusters: int) -> float:
    """Mean cosine of Dask-ML's k-means, its rows in two chunks."""
    import dask.array
    from dask_ml.cluster import KMeans

    chunks = dask.array.from_array(rows, chunks=(-(-len(rows) // 2), rows.shape[1]))
    model = KMeans(num_clusters, init="random", max_iter=10, tol=0.0, random_state=0)
    with dask.config.set(scheduler="threads", num_workers=2):
        model.fit(chunks)
        labels = np.asarray(model.labels_)
    return _mean_cosine(rows, model.cluster_centers_, labels)


def _mean_cosine(
    rows: npt.NDArray[np.float32],
    centres: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
) -> float:
    directions = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    return float(np.einsum("nd,nd->n", rows, directions[labels]).mean())


def _mixed_sizes(num_rows: int) -> npt.NDArray[np.int64]:
    """A tenth of the rows in two giant classes, the others in classes of 1-1,000."""
    rng = np.random.default_rng(0)
    giants = np.array([num_rows // 20, num_rows // 20])
    others = np.minimum(1000, rng.zipf(1.3, num_rows))
    others = others[: np.searchsorted(np.cumsum(others), num_rows - giants.sum())]
    return np.concatenate([giants, others])


def _assert_same(one: ClusterTable, other: ClusterTable) -> None:
    for name, array in one.arrays().items():
        if array.tobytes() != other.arrays()[name].tobytes():
            raise AssertionError(f"{name} differs")
