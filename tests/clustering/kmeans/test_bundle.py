from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.kmeans.bundle import BundleResult, BundleWork, cluster_bundle, cluster_classes
from data_shards.errors import DataError
from tests.helpers.embedding_shards import labelled_rows, write_shards
from tests.helpers.reference_clustering import cluster_shapes

CLASS_SIZES = (12, 1, 30, 7)
ROWS, IDS, LABELS = labelled_rows(CLASS_SIZES)


def _work(classes: list[int], **changes: Any) -> BundleWork:
    settings: dict[str, Any] = {
        "folder": "embeddings",
        "classes": np.array(classes),
        "class_sizes": np.array([CLASS_SIZES[c] for c in classes]),
        "num_clusters": np.array([max(1, CLASS_SIZES[c] // 6) for c in classes]),
        "positions": np.concatenate([np.flatnonzero(np.equal(LABELS, c)) for c in classes]),
        "config": ClusterConfig(iterations=5),
        "seed": 3,
    }
    return BundleWork(**(settings | changes))


def _of_class(result: BundleResult, class_: int) -> tuple[np.ndarray, ...]:
    own = result.class_of == class_
    return result.centroids[own], result.spread[own], result.concentration[own]


def test_clusters_of_each_class_hold_its_rows() -> None:
    work = _work([0, 1, 3])
    result = cluster_classes(lambda positions: ROWS[positions], work)
    assert result.class_of.tolist() == [0, 0, 1, 3]
    np.testing.assert_array_equal(result.class_of[result.assignment], LABELS[work.positions])
    centroids, spread, concentration = cluster_shapes(ROWS[work.positions], result.assignment)
    np.testing.assert_allclose(result.centroids, centroids, atol=1e-6)
    np.testing.assert_allclose(result.spread, spread, atol=1e-3)
    np.testing.assert_allclose(result.concentration, concentration, atol=1e-6)


def test_the_other_classes_of_a_bundle_do_not_matter() -> None:
    alone, among = (
        cluster_classes(lambda positions: ROWS[positions], _work(classes))
        for classes in ([2], [0, 2, 3])
    )
    for got, expected in zip(_of_class(among, 2), _of_class(alone, 2), strict=True):
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("num_clusters", [1, 4])
def test_a_class_is_the_same_by_each_way(
    num_clusters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many small ones at once, or by itself in several chunks."""
    work = _work([2], num_clusters=np.array([num_clusters]))
    together = cluster_classes(lambda positions: ROWS[positions], work)
    monkeypatch.setattr("clustering.kmeans.bundle.CHUNK_ROWS", 8)
    monkeypatch.setattr("clustering.kmeans.partitions.CHUNK_ROWS", 8)
    alone = cluster_classes(lambda positions: ROWS[positions], work)
    for name in ("centroids", "spread", "concentration", "assignment"):
        assert getattr(alone, name).tobytes() == getattr(together, name).tobytes()
    assert alone.iterations == together.iterations


def test_the_seed_matters() -> None:
    one, other = (
        cluster_classes(lambda positions: ROWS[positions], _work([2], seed=seed)) for seed in (0, 1)
    )
    assert one.centroids.tobytes() != other.centroids.tobytes()


@pytest.mark.parametrize(("chunk", "reads"), [(30, [13, 30, 7]), (50, [50]), (1, [12, 1, 30, 7])])
def test_memory_holds_a_chunk_or_a_class_at_a_time(
    chunk: int, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def read(positions: np.ndarray) -> np.ndarray:
        asked.append(len(positions))
        return ROWS[positions]

    monkeypatch.setattr("clustering.kmeans.bundle.CHUNK_ROWS", chunk)
    got = cluster_classes(read, _work([0, 1, 2, 3]))
    assert asked == reads
    monkeypatch.undo()
    expected = cluster_classes(read, _work([0, 1, 2, 3]))
    assert got.centroids.tobytes() == expected.centroids.tobytes()
    assert got.spread.tobytes() == expected.spread.tobytes()


def test_rows_come_from_the_shards(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, ROWS, IDS, LABELS)
    got = cluster_bundle(_work([0, 3], folder=str(folder)))
    expected = cluster_classes(lambda positions: ROWS[positions], _work([0, 3]))
    assert got.centroids.tobytes() == expected.centroids.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 3.0])
def test_an_embedding_that_is_no_unit_vector_is_named(value: float) -> None:
    rows = ROWS.copy()
    position = int(np.flatnonzero(LABELS == 3)[2])
    rows[position] = value
    message = rf"1 of 19 embeddings .* the first is row {position} of embeddings, of class 3;"
    with pytest.raises(ClusterError, match=message):
        cluster_classes(lambda positions: rows[positions], _work([0, 3]))


def test_missing_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished embeddings"):
        cluster_bundle(_work([0], folder=str(tmp_path)))


def test_work_names_itself() -> None:
    text = str(_work([2, 0]))
    assert text == "a bundle of 2 classes (the first is 2) and 42 samples"
