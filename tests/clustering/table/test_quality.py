from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clustering.table.quality import class_quality, table_quality
from clustering.table.table import ClusterTable
from tests.helpers import reference_clustering as reference
from tests.helpers.cluster_tables import tiny_table


def _regrouped(table: ClusterTable, clusters: list[list[int]]) -> ClusterTable:
    return replace(
        table,
        member_ptr=np.cumsum([0, *(len(members) for members in clusters)]),
        member_ids=np.array([i for members in clusters for i in members]),
    )


def test_numbers_of_a_table() -> None:
    table = tiny_table(clusters_per_class=(2, 1))
    table = replace(
        _regrouped(table, [[1, 2], [3], [4, 5, 6, 7, 8]]),
        centroids=np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32),
        neighbours=np.array([[2, -1], [2, -1], [1, 0]]),
        spread=np.array([0.1, 0.0, 0.4], dtype=np.float32),
        concentration=np.array([0.5, 1.0, 0.9], dtype=np.float32),
    )
    far, near = np.arccos(0.6), np.arccos(0.8)
    expected = {
        "clusters/count": 3,
        "clusters/smallest": 1,
        "clusters/largest": 5,
        "clusters/singletons": 1 / 3,
        "clusters/imbalance": 3 * (4 + 1 + 25) / 64,
        "clusters/spread_rad": (2 * 0.1 + 5 * 0.4) / 8,
        "clusters/concentration": (2 * 0.5 + 1 + 5 * 0.9) / 8,
        "clusters/class_concentration_least": (2 * 0.5 + 1) / 3,
        "clusters/class_concentration_p05": 0.95 * (2 * 0.5 + 1) / 3 + 0.05 * 0.9,
        "clusters/class_imbalance_most": 2 / 1.5,
        "clusters/class_imbalance_p95": 1 + 0.95 * (2 / 1.5 - 1),
        "clusters/separation_rad": (far + near + near) / 3,
    }
    assert table_quality(table) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("clusters_per_class", [(1,), (3, 1, 2), (1, 1, 7, 4, 1)])
def test_numbers_of_each_class_equal_the_loops(clusters_per_class: tuple[int, ...]) -> None:
    table = tiny_table(clusters_per_class=clusters_per_class, seed=len(clusters_per_class))
    got = class_quality(table)
    expected = reference.class_quality(
        table.class_of, table.cluster_sizes, table.concentration, table.spread
    )
    assert got.num_clusters.tolist() == list(clusters_per_class)
    columns = (got.concentration, got.imbalance, got.spread)
    np.testing.assert_allclose(np.transpose(columns), expected, rtol=1e-6)


def test_the_worst_classes_come_first() -> None:
    table = tiny_table(clusters_per_class=(1, 2, 1, 1))
    concentration = np.array([0.5, 0.9, 0.9, 0.2, 0.5], dtype=np.float32)
    of_class = class_quality(replace(table, concentration=concentration))
    assert of_class.worst(3).tolist() == [2, 0, 3]
    assert of_class.worst(9).tolist() == [2, 0, 3, 1]


def test_equal_sizes_are_no_imbalance() -> None:
    table = _regrouped(tiny_table(clusters_per_class=(2, 1)), [[1, 2], [3, 4], [5, 6]])
    assert table_quality(table)["clusters/imbalance"] == pytest.approx(1.0)


def test_one_class_has_no_separation() -> None:
    assert "clusters/separation_rad" not in table_quality(tiny_table(clusters_per_class=(3,)))


def test_a_table_with_other_cluster_numbers_has_no_churn() -> None:
    table = tiny_table(clusters_per_class=(2, 1))
    old = _regrouped(table, [[1, 2], [3], [4, 5]])
    new = _regrouped(table, [[3], [1, 2], [4, 5]])
    assert table_quality(new, old)["clusters/churn"] == 0


def test_churn_counts_what_left_its_cluster() -> None:
    table = tiny_table(clusters_per_class=(2, 1))
    old = _regrouped(table, [[1, 2, 3, 4], [5, 6], [7, 8]])
    new = _regrouped(table, [[1, 2, 3, 5], [4, 6], [7, 8]])
    assert table_quality(new, old)["clusters/churn"] == pytest.approx(2 / 8)


@pytest.mark.parametrize("seed", range(5))
def test_churn_equals_the_loops(seed: int) -> None:
    """Also where each table has samples that the other lacks."""
    rng = np.random.default_rng(seed)
    table = tiny_table(clusters_per_class=(2, 1))

    def groups() -> list[list[int]]:
        ids = rng.permutation(30)[:20]
        return [sorted(part.tolist()) for part in np.split(ids, [5, 12])]

    old, new = groups(), groups()
    churn = table_quality(_regrouped(table, new), _regrouped(table, old))["clusters/churn"]
    assert churn == pytest.approx(reference.churn(old, new))


def test_tables_without_a_common_sample_have_full_churn() -> None:
    table = tiny_table(clusters_per_class=(2, 1))
    old, new = (_regrouped(table, [[s], [s + 1], [s + 2]]) for s in (0, 10))
    assert table_quality(new, old)["clusters/churn"] == 1


def test_moved_counts_other_numbers_within_the_class() -> None:
    table = tiny_table(clusters_per_class=(2, 1))
    old = _regrouped(table, [[1, 2], [3, 4], [5, 6]])
    new = _regrouped(table, [[3, 2], [1, 4], [5, 6]])
    assert table_quality(new, old)["clusters/moved"] == pytest.approx(2 / 6)
    assert table_quality(old, old)["clusters/moved"] == 0


def test_mutual_information_is_adjusted() -> None:
    """1 for the same clusters, about 0 for clusters by chance, whatever their numbers."""
    table = tiny_table(clusters_per_class=(2, 1))
    rng = np.random.default_rng(0)
    ids = np.arange(2000)
    old = _regrouped(table, [ids[:1000].tolist(), ids[1000:].tolist(), [3000]])
    turned = _regrouped(table, [ids[1000:].tolist(), ids[:1000].tolist(), [3000]])
    shuffled = np.array_split(rng.permutation(ids), 2)
    chance = _regrouped(table, [*(np.sort(part).tolist() for part in shuffled), [3000]])
    assert table_quality(turned, old)["clusters/ami"] == pytest.approx(1.0)
    assert table_quality(chance, old)["clusters/ami"] == pytest.approx(0.0, abs=0.01)


def test_classes_of_one_cluster_have_nothing_to_say() -> None:
    table = tiny_table(clusters_per_class=(1, 1))
    assert "clusters/ami" not in table_quality(table, table)


def _large_classes(share_moved: float) -> tuple[ClusterTable, ClusterTable]:
    """Two classes of 200 clusters; so many of the samples are in any of their class afterwards."""
    rng = np.random.default_rng(0)
    table = tiny_table(clusters_per_class=(200, 200))
    before = np.arange(8000) // 20
    moved = rng.random(len(before)) < share_moved
    now = np.where(moved, before // 200 * 200 + rng.integers(0, 200, len(before)), before)
    old, new = (
        _regrouped(table, [np.flatnonzero(of == j).tolist() for j in range(400)])
        for of in (before, now)
    )
    return old, new


@pytest.mark.parametrize("share_moved", [0.0, 0.1, 0.3, 1.0])
def test_large_classes_are_compared_by_some_of_their_clusters(
    share_moved: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = _large_classes(share_moved)
    of_all = table_quality(new, old)["clusters/ami"]
    monkeypatch.setattr("clustering.table.quality._PAIRS_OF_A_CLASS", 10_000)
    of_some = table_quality(new, old)["clusters/ami"]
    assert of_some == table_quality(new, old)["clusters/ami"]
    assert of_some == pytest.approx(of_all, abs=0.1)


def test_a_class_of_very_many_clusters_has_mutual_information() -> None:
    """Of more pairs than all classes together may have."""
    table = tiny_table(clusters_per_class=(3000,))
    ids = np.random.default_rng(0).permutation(12_000).reshape(2, 3000, 2)
    old = _regrouped(table, [*np.concatenate(ids, axis=1).tolist()])
    swapped = np.concatenate([ids[0], np.roll(ids[1], 1, axis=0)], axis=1)
    assert table_quality(old, old)["clusters/ami"] == pytest.approx(1.0)
    assert 0.2 < table_quality(_regrouped(table, swapped.tolist()), old)["clusters/ami"] < 1.0
