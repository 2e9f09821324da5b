from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

import data_shards.features.embedding_shard
from clustering.config import ClusterConfig
from clustering.coordinator import cluster_embeddings
from clustering.errors import ClusterError
from clustering.execution.workers import Done, LocalWorker, WorkList
from clustering.table.quality import class_quality
from clustering.table.table import ClusterTable
from data_shards.errors import DataError
from tests.helpers import reference_clustering as reference
from tests.helpers.embedding_shards import labelled_rows, write_shards
from tests.helpers.local_clustering import cluster_locally

CLASS_SIZES = (40, 1, 90, 7, 25, 3)
ROWS, IDS, LABELS = labelled_rows(CLASS_SIZES)
CONFIG = ClusterConfig(target_size=10, iterations=5, listed_neighbours=4, listed_siblings=3)
SETTINGS = {"task": "identity", "version": 200, "num_classes": 6, "config": CONFIG, "seed": 7}


class ShuffledWorkers(LocalWorker):
    """Many workers that end in another order than they start."""

    num_workers = 5

    def run(self, works: WorkList) -> Iterator[Done]:
        done = list(super().run(works))
        for number in np.random.default_rng(1).permutation(len(done)).tolist():
            yield done[number]


def _assert_same(got: ClusterTable, expected: ClusterTable) -> None:
    for name, array in expected.arrays().items():
        assert got.arrays()[name].tobytes() == array.tobytes(), name
        assert got.arrays()[name].dtype == array.dtype


def test_the_table_holds_what_it_should(tmp_path: Path) -> None:
    table = cluster_locally(write_shards(tmp_path, ROWS, IDS, LABELS), **SETTINGS)
    table.validate()
    assert (table.task, table.version, table.num_classes) == ("identity", 200, 6)
    assert table.class_sizes.tolist() == list(CLASS_SIZES)
    counts = [len(table.clusters_of_class(c)) for c in range(6)]
    assert counts == [max(1, round(n / 10)) for n in CLASS_SIZES]
    assert sorted(table.member_ids.tolist()) == sorted(IDS.tolist())

    row_of = {int(i): row for row, i in enumerate(IDS)}
    cluster_of = np.repeat(np.arange(table.num_clusters), table.cluster_sizes)
    rows = np.array([row_of[int(i)] for i in table.member_ids])
    np.testing.assert_array_equal(table.class_of[cluster_of], LABELS[rows])
    centroids, spread, concentration = reference.cluster_shapes(ROWS[rows], cluster_of)
    np.testing.assert_allclose(table.centroids, centroids, atol=1e-6)
    np.testing.assert_allclose(table.spread, spread, atol=1e-3)
    np.testing.assert_allclose(table.concentration, concentration, atol=1e-6)
    neighbours, siblings = reference.neighbour_lists(table.centroids, table.class_of, 4, 3)
    assert [[j for j in row if j != -1] for row in table.neighbours.tolist()] == neighbours
    assert [[j for j in row if j != -1] for row in table.siblings.tolist()] == siblings
    means = [ROWS[np.equal(LABELS, c)].astype(np.float64).mean(axis=0) for c in range(6)]
    expected = np.array([mean / np.linalg.norm(mean) for mean in means])
    np.testing.assert_allclose(table.class_means(), expected, atol=1e-5)


def test_stats(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, ROWS, IDS, LABELS)
    first = cluster_locally(folder, **SETTINGS)
    stats = first.stats
    assert stats["backend"] == f"faiss-cpu {faiss.__version__}"
    assert stats["transport"] == "shared_files"
    assert stats["seed"] == 7
    assert stats["embeddings_origin"] == "weights and data"
    assert stats["clusters/count"] == first.num_clusters
    assert stats["clusters/dropped"] == 0
    by_concentration = class_quality(first).worst(6).tolist()
    assert stats["worst_classes"] == ", ".join(map(str, by_concentration))
    assert stats["seconds"] >= 0
    assert "clusters/churn" not in stats
    second = cluster_locally(folder, **SETTINGS, previous=first)
    assert second.stats["clusters/churn"] == 0


def test_dropped_clusters_are_counted(tmp_path: Path) -> None:
    rows = np.repeat(ROWS[:2], 30, axis=0)
    folder = write_shards(tmp_path, rows, np.arange(60), np.repeat([0, 1], 30))
    table = cluster_locally(folder, **(SETTINGS | {"num_classes": 2}))
    assert table.num_clusters == 2
    assert table.stats["clusters/dropped"] == 4


def test_who_works_and_how_the_shards_lie_change_no_bit(tmp_path: Path) -> None:
    expected = cluster_locally(write_shards(tmp_path / "a", ROWS, IDS, LABELS), **SETTINGS)
    _assert_same(cluster_locally(tmp_path / "a", **SETTINGS), expected)
    _assert_same(
        cluster_embeddings(tmp_path / "a", **SETTINGS, workers=ShuffledWorkers(CONFIG)), expected
    )
    order = np.random.default_rng(5).permutation(len(IDS))
    write_shards(tmp_path / "b", ROWS[order], IDS[order], LABELS[order], num_shards=7)
    _assert_same(cluster_locally(tmp_path / "b", **SETTINGS), expected)


def test_another_seed_is_another_table(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, ROWS, IDS, LABELS)
    one, other = (cluster_locally(folder, **(SETTINGS | {"seed": s})) for s in (0, 1))
    assert one.centroids.tobytes() != other.centroids.tobytes()


def test_a_warm_start_from_the_table_before(tmp_path: Path) -> None:
    """Where nothing has changed, each class is done at once."""
    folder = write_shards(tmp_path, ROWS, IDS, LABELS)
    config = replace(CONFIG, init="warm", iterations=50, tolerance=0.0)
    first = cluster_locally(folder, **(SETTINGS | {"config": config}))
    second = cluster_locally(folder, **(SETTINGS | {"config": config}), previous=first)
    _assert_same(second, first)
    assert second.stats["iterations"] < first.stats["iterations"]


def test_numbers_of_the_table_before_are_continued(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, ROWS, IDS, LABELS)
    first = cluster_locally(folder, **SETTINGS)
    # The same clusters, but those of each class numbered the other way round.
    order = np.lexsort((-np.arange(first.num_clusters), first.class_of))
    turned = replace(
        first,
        centroids=first.centroids[order],
        member_ptr=np.cumsum([0, *first.cluster_sizes[order]]),
        member_ids=np.concatenate([first.members(j) for j in order]),
    )
    second = cluster_locally(folder, **SETTINGS, previous=turned)
    second.validate()
    assert second.centroids.tobytes() == turned.centroids.tobytes()
    assert second.member_ids.tolist() == turned.member_ids.tolist()
    assert second.stats["clusters/moved"] == 0
    assert second.stats["clusters/ami"] == pytest.approx(1.0)


def test_a_table_of_other_classes_is_no_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_shards(tmp_path / "a", ROWS, IDS, LABELS)
    fewer = write_shards(tmp_path / "b", *labelled_rows((9, 9)))
    previous = cluster_locally(fewer, **(SETTINGS | {"num_classes": 2}))
    config = replace(CONFIG, init="warm")
    table = cluster_locally(folder, **(SETTINGS | {"config": config}), previous=previous)
    assert "table 200 of task identity has 2 classes" in caplog.text
    _assert_same(table, cluster_locally(folder, **SETTINGS))


def test_progress(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    cluster_locally(
        write_shards(tmp_path, ROWS, IDS, LABELS),
        **SETTINGS,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    assert progress == sorted(progress)
    assert progress[-1] == (6, 6)


def test_a_class_without_a_sample_is_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, ROWS, IDS, LABELS)
    with pytest.raises(ClusterError, match="class 6 has no sample, nor have 1 others"):
        cluster_locally(folder, **(SETTINGS | {"num_classes": 8}))


def test_a_class_that_the_data_does_not_have_is_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, ROWS, IDS, LABELS)
    with pytest.raises(ClusterError, match=r"3 embeddings .* outside of 0\.\.4, .* class 5"):
        cluster_locally(folder, **(SETTINGS | {"num_classes": 5}))


def test_an_embedding_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_shards.features.embedding_shard, "_check_arrays", lambda *_: None)
    rows = ROWS.copy()
    rows[LABELS == 3] = np.nan
    folder = write_shards(tmp_path, rows, IDS, LABELS)
    with pytest.raises(ClusterError, match="7 of 11 embeddings are not finite .* of class 3;"):
        cluster_locally(folder, **SETTINGS)


def test_unfinished_and_damaged_embeddings(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, ROWS, IDS, LABELS)
    path = folder / "shard-000001.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-000001\.npy is damaged"):
        cluster_locally(folder, **SETTINGS)
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="no finished embeddings"):
        cluster_locally(folder, **SETTINGS)


@pytest.mark.parametrize("class_sizes", [(1,), (1, 1), (50,)])
def test_the_smallest_data(tmp_path: Path, class_sizes: tuple[int, ...]) -> None:
    folder = write_shards(tmp_path, *labelled_rows(class_sizes), num_shards=1)
    table = cluster_locally(folder, **(SETTINGS | {"num_classes": len(class_sizes)}))
    assert table.class_sizes.tolist() == list(class_sizes)
