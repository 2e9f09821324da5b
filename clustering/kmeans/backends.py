"""What compares rows with centroids: FAISS on the CPU, FAISS on a GPU, or torch on a GPU.

All take and return the same; rows are always summed up on the CPU. Another backend may round
differently, so a table says which one made it.

Legend: n rows of a chunk, D embedding, K clusters of a class.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from clustering.config import Backend
from clustering.errors import ClusterError
from clustering.kmeans.faiss_installed import require_faiss
from clustering.kmeans.gpu_files import has_gpu_file
from data_shards.cgroups import num_cores

try:
    import faiss
except ModuleNotFoundError:
    require_faiss()
    raise

BackendName = Literal["faiss-cpu", "faiss-gpu", "torch-gpu"]
"""A backend that has been chosen."""

# Below, sending the rows to a device and waiting for it takes longer than the CPU's answer.
_DEVICE_COMPARISONS = 1 << 20
_FAISS_TEMPORARY_BYTES = 256 * 2**20
_BLOCK_ROWS = 1024  # a tenth faster than FAISS's 4096 with 500 centroids of 128 dimensions

Nearest = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""(n,) nearest centroid of each row, the lower of equal ones; (n,) cosine of the two."""


class Placed(Protocol):
    """Rows of a chunk, in the memory of the device that compares them."""

    def nearest(self, centroids: npt.NDArray[np.float32]) -> Nearest:
        """Find the centroid of largest cosine for each row.

        Args:
            centroids: (K, D) float32, K >= 1, C-contiguous.
        """


class OnCpu:
    """FAISS on the CPU, one thread: on small classes several are 30 times slower."""

    def __init__(self, rows: npt.NDArray[np.float32]) -> None:
        self._rows = rows

    def nearest(self, centroids: npt.NDArray[np.float32]) -> Nearest:
        """See `Placed`."""
        cosines, nearest = faiss.knn(self._rows, centroids, 1, metric=faiss.METRIC_INNER_PRODUCT)
        return nearest[:, 0], cosines[:, 0]


class OnFaissGpu:
    """FAISS on the first GPU that this process sees."""

    def __init__(self, rows: npt.NDArray[np.float32]) -> None:
        self._rows = rows

    def nearest(self, centroids: npt.NDArray[np.float32]) -> Nearest:
        """See `Placed`."""
        cosines, nearest = faiss.knn_gpu(
            _gpu_resources(), self._rows, centroids, 1, metric=faiss.METRIC_INNER_PRODUCT
        )
        return nearest[:, 0], cosines[:, 0]


class OnTorch:
    """torch on a device, where the rows stay."""

    def __init__(self, rows: npt.NDArray[np.float32], device: str = "cuda") -> None:
        import torch

        self._torch: Any = torch
        self._device = device
        self._rows = torch.from_numpy(np.require(rows, requirements=["C", "W"])).to(device)

    def nearest(self, centroids: npt.NDArray[np.float32]) -> Nearest:
        """See `Placed`."""
        with self._torch.no_grad():
            similarities = self._rows @ self._torch.from_numpy(centroids).to(self._device).T
            cosines, nearest = similarities.max(dim=1)
            return nearest.cpu().numpy(), cosines.cpu().numpy()


class Runs:
    """Runs of rows that are each compared with a run of centroids: those of many small classes.

    The answers are those of `OnCpu`, without the overhead of its calls.
    """

    def __init__(
        self,
        rows: npt.NDArray[np.float32],
        sizes: npt.NDArray[np.int64],
        centroids: npt.NDArray[np.float32],
        counts: npt.NDArray[np.int64],
    ) -> None:
        """Prepare one call of FAISS for each run.

        Args:
            rows: (n, D) float32, C-contiguous, run after run.
            sizes: (B,) rows of each run, >= 1.
            centroids: (K, D) float32, C-contiguous, run after run; may be changed in place.
            counts: (B,) centroids of each run, >= 1.
        """
        self.nearest: npt.NDArray[np.int64] = np.zeros(len(rows), dtype=np.int64)
        """(n,) nearest centroid of each row within its run, the lower of equal ones."""
        self.cosines: npt.NDArray[np.float32] = np.ones(len(rows), dtype=np.float32)
        """(n,) cosine of the two."""
        self._arrays = (rows, centroids)  # FAISS is given bare addresses
        dim = rows.shape[1]
        first_rows, first_centroids = np.cumsum(sizes) - sizes, np.cumsum(counts) - counts
        self._calls = [
            (
                faiss.swig_ptr(rows[row:]),
                faiss.swig_ptr(centroids[centroid:]),
                dim,
                size,
                count,
                1,
                faiss.swig_ptr(self.cosines[row:]),
                faiss.swig_ptr(self.nearest[row:]),
            )
            for row, size, centroid, count in zip(
                first_rows.tolist(),
                sizes.tolist(),
                first_centroids.tolist(),
                counts.tolist(),
                strict=True,
            )
        ]

    def compare(self, numbers: npt.NDArray[np.int64]) -> None:
        """Update `nearest` and `cosines` of the runs with these numbers."""
        for number in numbers.tolist():
            faiss.knn_inner_product(*self._calls[number])


def stays_on_cpu(
    backend: BackendName,
    num_rows: npt.NDArray[np.int64] | int,
    num_clusters: npt.NDArray[np.int64] | int,
) -> npt.NDArray[np.bool_] | bool:
    """Whether this many rows are compared with this many centroids on the CPU; of any shape."""
    return (num_rows * num_clusters < _DEVICE_COMPARISONS) | (backend == "faiss-cpu")


def place(backend: BackendName, rows: npt.NDArray[np.float32], num_clusters: int) -> Placed:
    """Move rows to the device that compares them; too little work for a device stays on the CPU.

    Args:
        backend: what compares.
        rows: (n, D) float32, C-contiguous; not to be changed while placed.
        num_clusters: K, the centroids that they will be compared with.
    """
    if stays_on_cpu(backend, len(rows), num_clusters):
        return OnCpu(rows)
    return OnFaissGpu(rows) if backend == "faiss-gpu" else OnTorch(rows)


def choose_backend(wanted: Backend) -> BackendName:
    """Turn the setting `cluster.backend` into a backend that works here.

    Raises:
        ClusterError: the one that was asked for does not work here; says what is missing.
    """
    on_gpu: tuple[tuple[BackendName, Callable[[], bool]], ...] = (
        ("faiss-gpu", _faiss_has_gpu),
        ("torch-gpu", _torch_has_gpu),
    )
    for name, works in on_gpu:
        if wanted in ("auto", name) and works():
            return name
    if wanted in ("auto", "faiss-cpu"):
        return "faiss-cpu"
    raise ClusterError(
        f"cluster.backend is {wanted}, which finds no GPU here; install the extra gpu (faiss-gpu) "
        "or a CUDA build of torch on a machine with a GPU, or set it to auto"
    )


def describe_backend(backend: BackendName) -> str:
    """Name and release, for a table's stats."""
    if backend == "torch-gpu":
        import torch

        return f"{backend} {torch.__version__}"
    return f"{backend} {faiss.__version__}"


def limit_threads() -> None:
    """Let FAISS use no more threads than this process has cores; it counts the machine's."""
    faiss.omp_set_num_threads(min(faiss.omp_get_max_threads(), num_cores()))


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside the block FAISS uses one OpenMP thread, and blocks of rows that fit its cache."""
    threads, block = faiss.omp_get_max_threads(), faiss.cvar.distance_compute_blas_query_bs
    faiss.omp_set_num_threads(1)
    faiss.cvar.distance_compute_blas_query_bs = _BLOCK_ROWS
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
        faiss.cvar.distance_compute_blas_query_bs = block


@cache
def _gpu_resources() -> Any:
    resources = faiss.StandardGpuResources()
    # Several worker processes share a GPU with a training run; FAISS would take 1.5 GiB in each.
    resources.setTempMemory(_FAISS_TEMPORARY_BYTES)
    return resources


def _faiss_has_gpu() -> bool:
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def _torch_has_gpu() -> bool:
    # Importing torch takes seconds: only where there is a GPU for it.
    if not has_gpu_file() or importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())
