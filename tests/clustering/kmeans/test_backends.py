from __future__ import annotations

import faiss
import numpy as np
import pytest

from clustering.errors import ClusterError
from clustering.kmeans import backends
from clustering.kmeans.backends import (
    OnCpu,
    OnFaissGpu,
    OnTorch,
    Runs,
    choose_backend,
    describe_backend,
    limit_threads,
    one_thread,
    place,
    stays_on_cpu,
)
from tests.helpers.reference_clustering import unit_rows

ROWS = unit_rows(np.random.default_rng(0), 300, 7)
CENTROIDS = unit_rows(np.random.default_rng(1), 9, 7)
ON_TORCH_CPU = pytest.param(lambda rows: OnTorch(rows, device="cpu"), id="torch, on the CPU")


@pytest.mark.parametrize(
    "kind",
    [
        OnCpu,
        ON_TORCH_CPU,
        pytest.param(OnTorch, marks=pytest.mark.gpu),
        pytest.param(
            OnFaissGpu,
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(
                    not hasattr(faiss, "StandardGpuResources"), reason="needs faiss-gpu"
                ),
            ],
        ),
    ],
)
def test_finds_the_nearest_centroid(kind) -> None:
    nearest, cosines = kind(ROWS).nearest(CENTROIDS)
    expected = ROWS @ CENTROIDS.T
    assert nearest.dtype == np.int64
    assert cosines.dtype == np.float32
    assert nearest.tolist() == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose(cosines, expected.max(axis=1), atol=1e-6)


def test_little_work_stays_on_the_cpu() -> None:
    assert isinstance(place("torch-gpu", ROWS, 9), OnCpu)
    assert isinstance(place("faiss-cpu", ROWS, 10**9), OnCpu)
    sizes, counts = np.array([300, 2000]), np.array([9, 1000])
    assert stays_on_cpu("torch-gpu", sizes, counts).tolist() == [True, False]
    assert stays_on_cpu("faiss-cpu", sizes, counts).tolist() == [True, True]


def test_runs_are_compared_as_each_alone() -> None:
    """Few and many rows, few and many centroids; those not asked for stay as they were."""
    sizes, counts = np.array([1, 40, 200, 19, 40]), np.array([1, 3, 3, 1, 1])
    runs = Runs(ROWS, sizes, CENTROIDS, counts)
    with one_thread():
        runs.compare(np.array([0, 1, 2, 4]))
    rows, centroids = np.split(ROWS, np.cumsum(sizes)[:-1]), np.split(CENTROIDS, [1, 4, 7, 8])
    nearest, cosines = (np.split(a, np.cumsum(sizes)[:-1]) for a in (runs.nearest, runs.cosines))
    for number in (0, 1, 2, 4):
        with one_thread():
            expected = OnCpu(rows[number]).nearest(centroids[number])
        assert nearest[number].tobytes() == expected[0].tobytes()
        assert cosines[number].tobytes() == expected[1].tobytes()
    assert nearest[3].tolist() == [0] * 19
    assert cosines[3].tolist() == [1.0] * 19


@pytest.mark.parametrize(("cores", "expected"), [(2, 2), (64, 3)])
def test_faiss_uses_no_more_threads_than_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, expected: int
) -> None:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    monkeypatch.setattr(backends, "num_cores", lambda: cores)
    try:
        limit_threads()
        assert faiss.omp_get_max_threads() == expected
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize(
    ("wanted", "faiss_gpu", "torch_gpu", "chosen"),
    [
        ("auto", False, False, "faiss-cpu"),
        ("auto", False, True, "torch-gpu"),
        ("auto", True, True, "faiss-gpu"),
        ("faiss-cpu", True, True, "faiss-cpu"),
        ("torch-gpu", True, True, "torch-gpu"),
    ],
)
def test_choice(
    wanted: str, faiss_gpu: bool, torch_gpu: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_faiss_has_gpu", lambda: faiss_gpu)
    monkeypatch.setattr(backends, "_torch_has_gpu", lambda: torch_gpu)
    assert choose_backend(wanted) == chosen


@pytest.mark.parametrize("wanted", ["faiss-gpu", "torch-gpu"])
def test_a_gpu_that_is_not_there(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_faiss_has_gpu", lambda: False)
    monkeypatch.setattr(backends, "_torch_has_gpu", lambda: False)
    with pytest.raises(ClusterError, match=f"cluster.backend is {wanted}, which finds no GPU"):
        choose_backend(wanted)


def test_description() -> None:
    assert describe_backend("faiss-cpu") == f"faiss-cpu {faiss.__version__}"
