"""k-means of classes of every size: each case makes its data, measures, and returns figures."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks import kmeans_peers
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
from clustering.execution.ray_calls import run_calls
from clustering.table.table import ClusterTable

_EVERY = 50
_DEFAULT_THREADS = faiss.omp_get_max_threads()
_TRANSPORTS: tuple[TransportChoice, ...] = ("shared_files", "object_store")


def one_class(scale: float) -> list[Figure]:
    """One class of 100,000 rows in 500 clusters, one thread."""
    num_rows, num_clusters = sized(100_000, scale, 200), sized(500, scale, 4)
    labels = np.zeros(num_rows, dtype=np.int64)
    rows = blobs(labels, dim=128, rows_per_blob=num_rows // num_clusters)
    return _one_class_figures(*_raced(rows, num_clusters))


def _raced(
    rows: npt.NDArray[np.float32], num_clusters: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds and mean objective of each k-means; they take turns, each with 5 seeds."""
    peers = kmeans_peers.installed()
    objectives: dict[str, list[float]] = {name: [] for name in peers}

    def run(name: str) -> None:
        seed = len(objectives[name])
        objectives[name].append(peers[name](rows, num_clusters, seed))

    with kmeans_peers.faiss_threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sklearn says that it did not converge in 10 iterations
        seconds = interleaved({name: partial(run, name) for name in peers}, repeats=5)
    return seconds, {name: float(np.mean(values)) for name, values in objectives.items()}


def _one_class_figures(seconds: Mapping[str, float], mean: Mapping[str, float]) -> list[Figure]:
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
            if name in seconds
        ),
    ]


def two_workers(scale: float) -> list[Figure]:
    """The same class through Ray, by one and by two workers, which take turns."""
    class_sizes = np.array([sized(100_000, scale, 20_000)])
    tables: dict[int, ClusterTable] = {}
    with tempfile.TemporaryDirectory() as folder, local_ray(2):
        _written(folder, class_sizes, dim=128, rows_per_blob=200)

        def cluster(num_workers: int) -> None:
            tables[num_workers] = _clustered(folder, 1, _plain(200, num_workers=num_workers))

        cluster(2)
        load = interleaved({"one": lambda: cluster(1), "two": lambda: cluster(2)}, repeats=9)
    one, two = load["one"], load["two"]
    _assert_same(tables[1], tables[2])
    detail = f"{one:.2f} s -> {two:.2f} s, the same table; checksums and all included"
    return [Figure("two_workers_vs_one", two / one, "x", "<= 0.58", detail)]


def many_classes(scale: float) -> list[Figure]:
    """50,000 classes of 2-500 rows, P(n) ~ n^-2, end to end through Ray."""
    class_sizes = _small_sizes(sized(50_000, scale, 50))
    config = ClusterConfig(target_size=10, listed_neighbours=0, listed_siblings=0)
    with tempfile.TemporaryDirectory() as folder, local_ray(2):
        rows = _written(folder, class_sizes, dim=256, rows_per_blob=10)
        ours = partial(_clustered, folder, len(class_sizes), config)
        loop = partial(_faiss_loop, rows, class_sizes)
        ours()  # the first starts Ray's worker processes
        seconds = interleaved(
            {
                "ours": ours,
                "one thread": partial(loop, num_threads=1),
                # On a busy machine all of them would take many minutes.
                "default threads": partial(loop, num_threads=_DEFAULT_THREADS, every=_EVERY),
            },
            repeats=3,
        )
    seconds["default threads"] *= _EVERY
    return _many_classes_figures(len(rows), seconds)


def _faiss_loop(
    rows: npt.NDArray[np.float32],
    class_sizes: npt.NDArray[np.int64],
    *,
    num_threads: int,
    every: int = 1,
) -> None:
    """FAISS's k-means of one class after another, or of every `every`th class."""
    ends = np.cumsum(class_sizes)
    wanted = np.maximum(1, np.rint(class_sizes / 10)).astype(np.int64)
    with kmeans_peers.faiss_threads(num_threads):
        for number in range(0, len(class_sizes), every):
            own = rows[ends[number] - class_sizes[number] : ends[number]]
            kmeans_peers.faiss_kmeans(own, int(wanted[number]), 20)


def _many_classes_figures(num_rows: int, seconds: Mapping[str, float]) -> list[Figure]:
    data = f"{num_rows:,} rows, ours {seconds['ours']:.2f} s"
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
    """2,000,000 rows of mixed classes: overhead, memory of the driver, both transports.

    All later tables continue the numbering of the first.
    """
    class_sizes = _mixed_sizes(sized(2_000_000, scale, 20_000))
    with tempfile.TemporaryDirectory() as folder, local_ray(2, store_bytes=1 << 30):
        num_bytes = _written(folder, class_sizes, dim=128, rows_per_blob=100).nbytes
        # As where the embeddings were made: Ray's processes are there, but have imported little.
        list(run_calls(_sleep, [0.5] * 2, num_at_once=2, config=ClusterConfig()))
        measured = _both_transports(folder, len(class_sizes))
    _assert_same(measured.tables["shared_files"], measured.tables["object_store"])
    return _mixed_figures(class_sizes, num_bytes, measured)


@dataclass(frozen=True)
class _Measured:
    """Clusterings of the same rows, by transport."""

    seconds: dict[str, float]
    """Median."""
    overheads: dict[str, list[float]]
    """Of 2 workers' time, what did not go into checking, reading and arithmetic."""
    peaks: list[int]
    """Bytes by which the driver grew in each."""
    tables: dict[str, ClusterTable]
    """The last."""


def _both_transports(folder: str, num_classes: int) -> _Measured:
    overheads: dict[str, list[float]] = {route: [] for route in _TRANSPORTS}
    peaks: list[int] = []
    tables: dict[str, ClusterTable] = {}
    first: ClusterTable | None = None

    def cluster(route: TransportChoice) -> None:
        nonlocal first
        config = _plain(100, transport=route)
        with peak_memory() as grown:
            started = time.perf_counter()
            table = _clustered(folder, num_classes, config, previous=first)
            seconds = time.perf_counter() - started
            peaks.append(grown())
        busy = float(table.stats["worker_seconds"])
        overheads[route].append(1.0 - busy / (2 * seconds))
        tables[route] = table
        first = first or table

    seconds = interleaved({route: partial(cluster, route) for route in _TRANSPORTS}, repeats=3)
    return _Measured(seconds, overheads, peaks, tables)


def _mixed_figures(
    class_sizes: npt.NDArray[np.int64], num_bytes: int, measured: _Measured
) -> list[Figure]:
    seconds, peak = measured.seconds, max(measured.peaks)
    first, *later = measured.overheads["shared_files"]
    num_clusters = measured.tables["shared_files"].num_clusters
    what = f"{class_sizes.sum():,} rows, {len(class_sizes):,} classes, {num_clusters:,} clusters"
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
            peak / num_bytes,
            "",
            "<= 0.10",
            f"driver grew by {peak / 2**20:.0f} MiB, at most, for "
            f"{num_bytes / 2**20:.0f} MiB of embeddings",
        ),
        Figure(
            "object_store_vs_shared_files",
            seconds["object_store"] / seconds["shared_files"],
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
    tables: dict[str, ClusterTable] = {}
    with tempfile.TemporaryDirectory() as folder, local_ray(2):
        rows = _written(folder, np.array([num_rows]), dim=128, rows_per_blob=1000)

        def cluster(name: str, config: ClusterConfig) -> None:
            tables[name] = _clustered(folder, 1, config)

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


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def _plain(target_size: int, **others: int | str) -> ClusterConfig:
    return ClusterConfig(
        target_size=target_size,
        iterations=10,
        tolerance=0.0,
        listed_neighbours=0,
        listed_siblings=0,
        **others,  # type: ignore[arg-type]
    )


def _small_sizes(num_classes: int) -> npt.NDArray[np.int64]:
    """Of 2-500 rows, P(n) ~ n^-2."""
    rng = np.random.default_rng(0)
    sizes = np.arange(2, 501)
    shares = 1.0 / sizes**2
    return rng.choice(sizes, num_classes, p=shares / shares.sum())


def _mixed_sizes(num_rows: int) -> npt.NDArray[np.int64]:
    """A tenth of the rows in two giant classes, the others in classes of 1-1,000."""
    rng = np.random.default_rng(0)
    giants = np.array([num_rows // 20, num_rows // 20])
    others = np.minimum(1000, rng.zipf(1.3, num_rows))
    others = others[: np.searchsorted(np.cumsum(others), num_rows - giants.sum())]
    return np.concatenate([giants, others])


def _written(
    folder: str, class_sizes: npt.NDArray[np.int64], *, dim: int, rows_per_blob: int
) -> npt.NDArray[np.float32]:
    """The rows of classes of these sizes, class after class, written as embedding shards."""
    labels = np.repeat(np.arange(len(class_sizes)), class_sizes)
    rows = blobs(labels, dim=dim, rows_per_blob=rows_per_blob)
    write_embeddings(Path(folder), rows, labels)
    return rows


def _clustered(
    folder: str, num_classes: int, config: ClusterConfig, *, previous: ClusterTable | None = None
) -> ClusterTable:
    return cluster_embeddings(
        folder,
        task="identity",
        version=0,
        num_classes=num_classes,
        config=config,
        seed=0,
        previous=previous,
    )


def _assert_same(one: ClusterTable, other: ClusterTable) -> None:
    for name, array in one.arrays().items():
        if array.tobytes() != other.arrays()[name].tobytes():
            raise AssertionError(f"{name} differs")
