from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clustering.errors import ClusterError
from clustering.table.table import ClusterTable
from data_shards.errors import DataError
from tests.helpers.cluster_tables import tiny_table
from tests.helpers.reference_clustering import unit_rows


def _changed(array: np.ndarray, where: Any, value: float) -> np.ndarray:
    changed = array.copy()
    changed[where] = value
    return changed


def test_sizes_and_members() -> None:
    table = tiny_table(clusters_per_class=(3, 1, 2))
    assert (table.num_clusters, table.num_classes, table.dim) == (6, 3, 4)
    assert table.cluster_sizes.sum() == table.class_sizes.sum() == table.num_samples
    assert table.class_sizes.tolist() == [
        sum(len(table.members(j)) for j in table.clusters_of_class(c)) for c in range(3)
    ]
    assert table.clusters_of_class(1).tolist() == [3]
    together = np.concatenate([table.members(j) for j in range(6)])
    np.testing.assert_array_equal(together, table.member_ids)


def test_samples_find_their_clusters() -> None:
    table = tiny_table(clusters_per_class=(3, 1, 2))
    for cluster in range(table.num_clusters):
        found = table.clusters_of_samples(table.members(cluster)[::-1].astype(np.int32))
        assert found.dtype == np.int64
        assert found.tolist() == [cluster] * len(table.members(cluster))
    assert table.clusters_of_samples(table.member_ids[:0]).shape == (0,)


@pytest.mark.parametrize("unknown", [-1, 10**6])
def test_samples_of_no_cluster_are_refused(unknown: int) -> None:
    table = tiny_table(clusters_per_class=(3, 1, 2))
    with pytest.raises(DataError, match=f"sample {unknown} is in no cluster of table"):
        table.clusters_of_samples(np.array([table.member_ids[0], unknown]))
    with pytest.raises(DataError, match=r"integers of shape \(B,\), got float64 of shape \(1,\)"):
        table.clusters_of_samples(np.array([0.5]))


def test_class_means_are_exact() -> None:
    """The mean of all members of a class, though the table holds no embedding."""
    rows = unit_rows(np.random.default_rng(1), 9, 4).astype(np.float64)
    assignment = np.array([0, 0, 0, 0, 1, 2, 2, 2, 2])
    sums = np.array([rows[assignment == j].sum(axis=0) for j in range(3)])
    lengths = np.linalg.norm(sums, axis=1)
    table = replace(
        tiny_table(clusters_per_class=(2, 1)),
        centroids=(sums / lengths[:, None]).astype(np.float32),
        member_ptr=np.array([0, 4, 5, 9]),
        concentration=(lengths / [4, 1, 4]).astype(np.float32),
    )
    expected = np.array([rows[:5].sum(axis=0), rows[5:].sum(axis=0)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    means = table.class_means()
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, expected, atol=1e-6)


@pytest.mark.parametrize("block", [1, 2, 3, 5, 100])
def test_class_means_are_made_in_blocks_of_whole_classes(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("clustering.table.table._BLOCK_CLUSTERS", block)
    table = tiny_table(clusters_per_class=(1, 4, 1, 1, 9, 2, 1))
    for class_, mean in enumerate(table.class_means()):
        total = sum(
            table.cluster_sizes[j] * float(table.concentration[j]) * table.centroids[j]
            for j in table.clusters_of_class(class_)
        )
        np.testing.assert_allclose(mean, total / np.linalg.norm(total), atol=1e-6)


def test_class_means_are_computed_once() -> None:
    """They are asked for with every batch of an evaluation."""
    table = tiny_table()
    means = table.class_means()
    assert table.class_means() is means
    with pytest.raises(ValueError, match="read-only"):
        means[0] = 0


def test_a_changed_or_copied_table_has_its_own_class_means() -> None:
    table = tiny_table()
    means = table.class_means()
    turned = replace(table, centroids=-table.centroids)
    np.testing.assert_array_equal(turned.class_means(), -means)
    for copied in (copy.copy(table), copy.deepcopy(table)):
        np.testing.assert_array_equal(copied.class_means(), means)
    assert table.arrays().keys() == turned.arrays().keys()


def test_class_mean_of_members_that_cancel_out() -> None:
    """Two opposite clusters have no mean; the first centroid stands in for it."""
    table = tiny_table(clusters_per_class=(2, 1))
    table = replace(
        table,
        centroids=np.stack([table.centroids[0], -table.centroids[0], table.centroids[2]]),
        member_ptr=np.array([0, 2, 4, 5]),
        concentration=np.ones(3, dtype=np.float32),
    )
    means = table.class_means()
    np.testing.assert_allclose(means, table.centroids[[0, 2]], atol=1e-6)


def test_arrays_and_back() -> None:
    table = tiny_table()
    back = ClusterTable.from_arrays(
        table.arrays(), version=table.version, task=table.task, stats=table.stats
    )
    back.validate()
    for name, array in table.arrays().items():
        np.testing.assert_array_equal(back.arrays()[name], array)


def test_a_missing_array_is_refused() -> None:
    arrays = tiny_table().arrays()
    del arrays["spread"]
    with pytest.raises(ClusterError, match=r"expected .*'spread'"):
        ClusterTable.from_arrays(arrays, version=1, task="identity", stats={})


@pytest.mark.parametrize("clusters_per_class", [(1,), (1, 1), (3, 1, 2), (1, 7)])
def test_a_good_table_is_valid(clusters_per_class: tuple[int, ...]) -> None:
    tiny_table(clusters_per_class=clusters_per_class).validate()


BROKEN: dict[str, tuple[Callable[[ClusterTable], dict[str, Any]], str]] = {
    "dtype": (lambda t: {"centroids": t.centroids.astype(np.float64)}, "centroids must be float32"),
    "rows": (lambda t: {"spread": t.spread[:-1]}, "spread must have 6 rows, got 5"),
    "no cluster": (
        lambda t: {"class_of": t.class_of[:0]},
        "there is no cluster",
    ),
    "unsorted": (lambda t: {"class_of": t.class_of[::-1].copy()}, "class_of must ascend"),
    "class without cluster": (
        lambda t: {"class_of": _changed(t.class_of, t.class_of == 1, 2)},
        "every class has at least one cluster",
    ),
    "empty cluster": (
        lambda t: {"member_ptr": _changed(t.member_ptr, 2, t.member_ptr[1])},
        "cluster 1 has no member",
    ),
    "lost sample": (lambda t: {"member_ids": t.member_ids[:-1]}, "member_ptr must go from 0"),
    "sample twice": (
        lambda t: {"member_ids": _changed(t.member_ids, 0, t.member_ids[-1])},
        "is in 2 clusters",
    ),
    "long centroid": (lambda t: {"centroids": t.centroids * 2}, "centroid 0 must have length 1"),
    "nan centroid": (
        lambda t: {"centroids": _changed(t.centroids, 4, np.nan)},
        "centroid 4 must have length 1, got nan",
    ),
    "spread": (lambda t: {"spread": _changed(t.spread, 2, 4)}, "spread must lie in"),
    "nan spread": (lambda t: {"spread": _changed(t.spread, 2, np.nan)}, "spread .* has nan"),
    "concentration": (
        lambda t: {"concentration": _changed(t.concentration, 2, -1)},
        "concentration must lie in",
    ),
    "neighbour out of range": (
        lambda t: {"neighbours": _changed(t.neighbours, (0, 0), 6)},
        "neighbours must be clusters 0..5 or -1",
    ),
    "neighbour of its class": (
        lambda t: {"neighbours": _changed(t.neighbours, (0, 0), 1)},
        "neighbours of cluster 0 must be clusters of other classes",
    ),
    "hole in a list": (
        lambda t: {"neighbours": _changed(t.neighbours, (0, 0), -1)},
        "neighbours must have -1 only at the end",
    ),
    "sibling of another class": (
        lambda t: {"siblings": _changed(t.siblings, (0, 0), 3)},
        "siblings of cluster 0 must be others of its own class",
    ),
    "its own sibling": (
        lambda t: {"siblings": _changed(t.siblings, (0, 0), 0)},
        "siblings of cluster 0 must be others of its own class",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_invariant_is_named(case: str) -> None:
    change, message = BROKEN[case]
    table = tiny_table(clusters_per_class=(3, 1, 2))
    with pytest.raises(ClusterError, match=f"table 200 of task identity is broken: .*{message}"):
        replace(table, **change(table)).validate()
