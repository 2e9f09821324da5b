from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

import clmle
import clustering
from clmle.directions import normalised
from clustering.table.knc import knc_predict
from data_shards.errors import DataError
from tests.helpers.embedding_shards import labelled_rows


@pytest.fixture
def rows() -> np.ndarray:
    return labelled_rows((30, 12, 5), seed=3)[0]


@pytest.fixture
def labels() -> np.ndarray:
    return np.repeat([0, 1, 2], (30, 12, 5))


def test_every_class_is_clustered_and_every_row_is_a_member(
    rows: np.ndarray, labels: np.ndarray
) -> None:
    table = clmle.cluster(rows, labels, target_size=6)
    table.validate()
    assert np.bincount(table.class_of).tolist() == [5, 2, 1]
    assert sorted(table.member_ids) == list(range(len(rows)))
    found = clmle.cluster_ids(table, np.arange(len(rows)))
    assert (table.class_of[found] == labels).all()
    for number in range(table.num_clusters):
        assert np.flatnonzero(found == number).tolist() == table.members(number).tolist()


def test_the_same_arguments_give_the_same_table(rows: np.ndarray, labels: np.ndarray) -> None:
    table = clmle.cluster(rows, labels, target_size=6, seed=1)
    again = clmle.cluster(torch.tensor(rows), torch.tensor(labels), target_size=6, seed=1)
    for name, array in table.arrays().items():
        assert np.array_equal(array, again.arrays()[name]), name


def test_only_directions_count(rows: np.ndarray, labels: np.ndarray) -> None:
    lengths = np.logspace(-3, 3, len(rows))[:, None]
    table = clmle.cluster(rows, labels, target_size=6)
    scaled = clmle.cluster(rows.astype(np.float64) * lengths, labels, target_size=6)
    assert np.array_equal(table.member_ids, scaled.member_ids)
    np.testing.assert_allclose(
        clmle.knc_scores(rows * 7, table), clmle.knc_scores(rows, table), rtol=1e-5
    )


@pytest.mark.parametrize("rule", ["margin", "soft", "balanced"])
def test_the_best_score_is_the_predicted_class(
    rows: np.ndarray, labels: np.ndarray, rule: str
) -> None:
    table = clmle.cluster(rows, labels, target_size=6)
    scores = clmle.knc_scores(rows, table, rule=rule, num_neighbours=4)
    assert scores.shape == (len(rows), 3)
    predicted = knc_predict(
        rows, table.centroids, table.class_of, num_classes=3, rules=[rule], num_neighbours=4
    )
    assert scores.argmax(axis=1).tolist() == predicted.classes[rule].tolist()


def test_bfloat16_tensors_and_no_samples_serve(rows: np.ndarray, labels: np.ndarray) -> None:
    rough = torch.from_numpy(rows).to(torch.bfloat16)
    table = clmle.cluster(rough, labels, target_size=6)
    assert clmle.knc_scores(rough, table).shape == (len(rows), 3)
    assert clmle.cluster_ids(table, []).tolist() == []
    with pytest.raises(TypeError, match="table must be a ClusterTable"):
        clmle.cluster(rows, labels, previous="x")
    with pytest.raises(ValueError, match="scale must be > 0 and finite"):
        clmle.knc_scores(rows, table, scale=float("inf"))


def test_wrong_arrays_are_told_what_was_expected(rows: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"embeddings must be \(N, D\), .* got \(47,\)"):
        clmle.cluster(labels, rows)
    with pytest.raises(DataError, match=r"embeddings must be floating point, got int64"):
        clmle.cluster(labels[:, None], labels)
    with pytest.raises(DataError, match=r"labels must be \(47,\) integers, .*: names, labels = "):
        clmle.cluster(rows, np.array(["ann"] * len(rows)))
    with pytest.raises(DataError, match=r"labels must be \(47,\) integers, .* of shape \(46,\)"):
        clmle.cluster(rows, labels[1:])
    with pytest.raises(DataError, match=r"class 1 of 5 has no sample\. To renumber: .*np\.unique"):
        clmle.cluster(rows, labels * 2)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_row_without_a_direction_is_named(
    rows: np.ndarray, labels: np.ndarray, value: float
) -> None:
    table = clmle.cluster(rows, labels)
    rows[7] = value
    message = rf"embedding 7 has length {value}, so it has no direction; 1 of 47"
    with pytest.raises(ValueError, match=message):
        clmle.cluster(rows, labels)
    with pytest.raises(ValueError, match=message):
        clmle.knc_scores(rows, table)


def test_unit_rows_give_the_table_and_the_scores_of_clustering(
    rows: np.ndarray, labels: np.ndarray
) -> None:
    settings = {"target_size": 6, "seed": 1, "iterations": 4}
    table = clmle.cluster(rows, labels, **settings)
    expected = clustering.cluster_arrays(normalised(rows), labels, **settings)
    for name, array in table.arrays().items():
        assert np.array_equal(array, expected.arrays()[name]), name
    following = clmle.cluster(rows, labels, target_size=6, init="warm", previous=table)
    assert following.version == table.version + 1
    scores = clustering.class_scores(normalised(rows), table)
    assert np.array_equal(clmle.knc_scores(rows, table), scores)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (clmle.cluster, clustering.cluster_arrays),
        (clmle.knc_scores, clustering.class_scores),
    ],
)
def test_settings_and_defaults_are_those_of_clustering(mine: Any, theirs: Any) -> None:
    defaults = [
        {name: p.default for name, p in inspect.signature(function).parameters.items()}
        for function in (mine, theirs)
    ]
    assert defaults[0] == defaults[1]


def test_scores_of_what_does_not_fit_the_table_are_refused(
    rows: np.ndarray, labels: np.ndarray
) -> None:
    table = clmle.cluster(rows, labels)
    with pytest.raises(ValueError, match="another embedding dimension"):
        clmle.knc_scores(rows[:, 1:], table)
    with pytest.raises(TypeError, match="table must be a ClusterTable"):
        clmle.knc_scores(rows, table.centroids)
    with pytest.raises(DataError, match="sample 47 is in no cluster"):
        clmle.cluster_ids(table, [3, 47])
    with pytest.raises(DataError, match="sample_ids must be integers"):
        clmle.cluster_ids(table, [0.5])
    with pytest.raises(TypeError, match="table must be a ClusterTable"):
        clmle.cluster_ids(np.arange(3), table)
