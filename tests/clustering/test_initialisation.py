"""A rule for the first centroids of k-means is a function and an entry in a table."""

from __future__ import annotations

import numpy as np
import pytest

from clustering import ClusterConfig, cluster_arrays
from clustering.initialisation import INITIALISATIONS, Initialisation, Start
from clustering.kmeans.one_class import spherical_kmeans
from data_shards.errors import ConfigError
from tests.helpers.embedding_shards import labelled_rows

ROWS, _, LABELS = labelled_rows((40, 12, 30))


def first_rows(start: Start) -> np.ndarray:
    """A toy: the first rows of the class."""
    return start.read_rows(np.arange(start.num_clusters))


def test_a_new_rule_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="init must be one of random, .*, got 'first'"):
        ClusterConfig(init="first")
    monkeypatch.setitem(INITIALISATIONS, "first", Initialisation(first_rows))
    config = ClusterConfig(init="first", iterations=3)
    one, other = (spherical_kmeans(ROWS[:40], 5, config=config, seed=seed) for seed in (0, 1))
    assert one.centroids.tobytes() == other.centroids.tobytes()
    table = cluster_arrays(ROWS, LABELS, target_size=6, init="first")
    assert table.class_sizes.tolist() == [40, 12, 30]


def test_a_rule_gets_the_previous_centroids_if_it_wants_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []

    def watch(start: Start) -> np.ndarray:
        given.append(start.previous)
        return start.random_rows(start.num_clusters)

    table = cluster_arrays(ROWS, LABELS, target_size=6)
    for uses_previous in (False, True):
        given.clear()
        monkeypatch.setitem(INITIALISATIONS, "watch", Initialisation(watch, uses_previous))
        cluster_arrays(ROWS, LABELS, target_size=6, init="watch", previous=table)
        got = [None if previous is None else {bytes(row) for row in previous} for previous in given]
        assert len(got) == 3
        for class_ in range(3):
            own = {bytes(row) for row in table.centroids[table.class_of == class_]}
            assert (own if uses_previous else None) in got


@pytest.mark.parametrize("init", ["random", "kmeans++", "warm"])
def test_every_rule_gives_as_many_centroids_as_wanted(init: str) -> None:
    rng = np.random.default_rng(0)
    start = Start(
        read_rows=ROWS.__getitem__, num_rows=len(ROWS), num_clusters=9, rng=rng, previous=ROWS[:4]
    )
    centroids = INITIALISATIONS[init].choose(start)
    assert (centroids.shape, centroids.dtype) == ((9, 6), np.float32)
