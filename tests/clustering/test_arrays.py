"""Arrays in, tables and scores out, without Ray and without files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clustering
from clustering import ClusterConfig, ClusterTable, class_scores, cluster_arrays
from clustering.table.knc import knc_predict
from data_shards.errors import ConfigError, DataError
from tests.helpers.embedding_shards import labelled_rows, write_shards
from tests.helpers.local_clustering import cluster_locally

CLASS_SIZES = (40, 1, 90, 7, 25, 3)
ROWS, _, LABELS = labelled_rows(CLASS_SIZES)
NUMBERS = np.arange(len(ROWS))


def _assert_same(got: ClusterTable, expected: ClusterTable) -> None:
    for name, array in expected.arrays().items():
        assert got.arrays()[name].tobytes() == array.tobytes(), name
        assert got.arrays()[name].dtype == array.dtype


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_size": 10},
        {"target_size": 10, "seed": 3, "init": "kmeans++", "iterations": 4},
        {"target_size": 10, "min_cluster_size": 4, "balance": 1.5, "listed_neighbours": 2},
    ],
)
def test_equals_the_table_of_the_same_embeddings_in_shards(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    table = cluster_arrays(ROWS, LABELS, **settings)
    config = ClusterConfig(**{name: v for name, v in settings.items() if name != "seed"})
    expected = cluster_locally(
        write_shards(tmp_path, ROWS, NUMBERS, LABELS),
        task="identity",
        version=0,
        num_classes=len(CLASS_SIZES),
        config=config,
        seed=settings.get("seed", 0),
    )
    _assert_same(table, expected)
    assert table.stats.keys() == expected.stats.keys()


def test_a_class_beyond_the_memory_of_a_worker_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan would partition it; an array is in memory already."""
    rows, _, labels = labelled_rows((9000, 50))
    expected = cluster_arrays(rows, labels, iterations=3)
    monkeypatch.setattr("clustering.execution.plan._MIB", 2**10)
    _assert_same(cluster_arrays(rows, labels, iterations=3, memory_mib_per_worker=1), expected)


def test_the_next_table_continues_the_previous_one() -> None:
    first = cluster_arrays(ROWS, LABELS, target_size=10)
    second = cluster_arrays(ROWS, LABELS, target_size=10, init="warm", previous=first)
    assert (first.version, second.version) == (0, 1)
    assert second.stats["clusters/moved"] < 0.5


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_taken(dtype: type) -> None:
    table = cluster_arrays(ROWS.astype(dtype), LABELS.astype(np.int32), target_size=10)
    _assert_same(
        table,
        cluster_arrays(
            ROWS.astype(dtype).astype(np.float32), LABELS.astype(np.int64), target_size=10
        ),
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (2 * ROWS, r"must have length 1, got 2 in row 0; 166 of 166 .*np\.linalg\.norm"),
        (np.where(NUMBERS[:, None] == 7, np.nan, ROWS), r"must be finite in row 7; 1 of 166"),
        (np.zeros((166, 6), np.float32), "must have length 1, got 0 in row 0"),
        (ROWS[0], r"must be \(N, D\), N and D >= 1, got \(6,\)"),
        (ROWS[:0], r"got \(0, 6\)"),
        ((100 * ROWS).astype(np.int64), "must be floating point, got int64"),
        (ROWS.tolist(), r"must be a NumPy array, got list.*\.numpy\(\)"),
    ],
)
def test_embeddings_that_cannot_be_used(rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"embedding.*{message}"):
        cluster_arrays(rows, LABELS)
    table = cluster_arrays(ROWS, LABELS)
    with pytest.raises(DataError, match=f"embedding.*{message}"):
        class_scores(rows, table)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS - 1, r"row \d+ has -1\. To renumber: .*np\.unique"),
        (LABELS + (LABELS >= 2), r"class 2 of 7 has no sample\. To renumber"),
        (LABELS + 1, "class 0 of 7 has no sample"),
        (LABELS[:-1], r"\(166,\) integers, one for each embedding, got int64 of shape"),
        (LABELS.astype(np.float32), "got float32"),
        (LABELS[:, None], r"of shape \(166, 1\)"),
        (LABELS.tolist(), "a NumPy array, got list"),
    ],
)
def test_labels_that_cannot_be_used(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"labels must be.*{message}"):
        cluster_arrays(ROWS, labels)


def test_settings_that_cannot_be_used() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.target_size must be >= 1, got 0"):
        cluster_arrays(ROWS, LABELS, target_size=0)
    with pytest.raises(TypeError, match="size"):
        cluster_arrays(ROWS, LABELS, size=3)
    with pytest.raises(ValueError, match="seed must be >= 0"):
        cluster_arrays(ROWS, LABELS, seed=-1)


@pytest.mark.parametrize("rule", ["soft", "balanced", "margin"])
def test_scores_are_those_of_knc(rule: Any) -> None:
    table = cluster_arrays(ROWS, LABELS, target_size=10)
    scores = class_scores(ROWS, table, rule=rule, num_neighbours=3)
    assert (scores.shape, scores.dtype) == ((len(ROWS), 6), np.float32)
    predicted = knc_predict(
        ROWS,
        table.centroids,
        table.class_of,
        num_classes=6,
        rules=[rule],
        num_neighbours=3,
    ).classes[rule]
    assert scores.argmax(axis=1).tolist() == predicted.tolist()


def test_scores_need_the_dimension_of_the_table() -> None:
    table = cluster_arrays(ROWS, LABELS)
    with pytest.raises(ValueError, match=r"queries must be \(N, 6\)"):
        class_scores(np.eye(5, dtype=np.float32), table)


def test_importing_the_package_is_cheap() -> None:
    """The public names are imported when first used, and then need neither FAISS nor Ray."""
    code = (
        "import sys, clustering; heavy = {'faiss', 'ray', 'torch', 'numpy'}; "
        "assert not heavy & set(sys.modules); "
        "clustering.cluster_arrays; assert 'numpy' in sys.modules; "
        "assert not {'faiss', 'ray', 'torch'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=60
    )


def test_public_names() -> None:
    for name in clustering.__all__:
        assert getattr(clustering, name).__doc__
        assert name in dir(clustering)
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        _ = clustering.unknown  # type: ignore[attr-defined]
