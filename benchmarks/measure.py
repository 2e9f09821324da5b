"""Figures, timing and data of the benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_shards.features.embedding_shard import write_embedding_shard
from data_shards.features.embeddings import finish_embeddings

_ROWS_PER_SHARD = 50_000


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str
    target: str
    """The wanted value, "" when there is none."""
    detail: str

    def __str__(self) -> str:
        return f"{self.name:34} {self.value:10.3f} {self.unit:6} {self.target:8} {self.detail}"


def sized(number: int, scale: float, least: int) -> int:
    """A size, shrunk by the scale, but not below what a case needs to mean something."""
    return max(least, round(number * scale))


def interleaved(functions: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, float]:
    """Median seconds of each; they take turns, so that a busy machine slows all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def blobs(
    labels: npt.NDArray[np.int64], *, dim: int, rows_per_blob: int, seed: int = 0
) -> npt.NDArray[np.float32]:
    """(n, dim) float32 unit rows: each class has blobs of about `rows_per_blob` rows."""
    rng = np.random.default_rng(seed)
    sizes = np.bincount(labels)
    num_blobs = np.maximum(1, np.rint(sizes / rows_per_blob)).astype(np.int64)
    starts = np.cumsum(num_blobs) - num_blobs
    centres = rng.standard_normal((int(num_blobs.sum()), dim), dtype=np.float32)
    blob = starts[labels] + rng.integers(0, num_blobs[labels])
    rows = rng.standard_normal((len(labels), dim), dtype=np.float32)
    for first in range(0, len(rows), _ROWS_PER_SHARD):
        part = slice(first, first + _ROWS_PER_SHARD)
        rows[part] += centres[blob[part]]
        rows[part] /= np.linalg.norm(rows[part], axis=1, keepdims=True)
    return rows


def write_embeddings(
    folder: Path, rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> Path:
    """Write embedding shards, sample ids in the order of the rows."""
    infos = [
        write_embedding_shard(
            folder,
            f"shard-{number:06d}",
            embeddings=rows[first : first + _ROWS_PER_SHARD],
            ids=np.arange(first, min(first + _ROWS_PER_SHARD, len(rows))),
            labels=labels[first : first + _ROWS_PER_SHARD],
            origin="benchmark",
        )
        for number, first in enumerate(range(0, len(rows), _ROWS_PER_SHARD))
    ]
    finish_embeddings(folder, infos, "benchmark")
    return folder


@contextmanager
def local_ray(num_cpus: int, *, store_bytes: int = 256 << 20) -> Iterator[None]:
    """A Ray of this process's own."""
    import ray

    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        object_store_memory=store_bytes,
        log_to_driver=False,
        logging_level="error",
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """Growth of this process's own memory inside the block: the peak, in bytes (Linux).

    Shared memory and mapped files are left out: they are other processes' too, or can be dropped.
    """
    import threading

    before = _own_bytes()
    peak = before
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.01):
            peak = max(peak, _own_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: peak - before
    finally:
        ended.set()
        thread.join()


def _own_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024
