from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from clustering.table.knc import Rule, knc_predict, nearest_class_mean_scores
from clustering.table.top_k import top_k
from tests.helpers import reference_clustering as reference

RULES: tuple[Rule, ...] = ("margin", "soft", "balanced")


def predict(*arrays: np.ndarray, rule: Rule, **settings: Any) -> np.ndarray:
    return knc_predict(*arrays, rules=[rule], **settings).classes[rule]


def scores_of(*arrays: np.ndarray, rule: Rule, **settings: Any) -> np.ndarray:
    return knc_predict(*arrays, rules=[rule], scored=[rule], **settings).scores[rule]


def _expected(
    rule: Rule, queries: np.ndarray, centroids: np.ndarray, class_of: np.ndarray, c: int, k: int
) -> np.ndarray:
    if rule == "margin":
        rows = [reference.margin_scores(q, centroids, class_of, c, k) for q in queries]
    elif rule == "balanced":
        rows = [reference.balanced_scores(q, centroids, class_of, c, k, 16.0) for q in queries]
    else:
        rows = [reference.soft_scores(q, centroids, class_of, c, k, 16.0) for q in queries]
    return np.array(rows)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("num_neighbours", [1, 2, 5, 12, 50])
@pytest.mark.parametrize("num_classes", [1, 2, 4, 12])
def test_equals_the_loops(rule: Rule, num_neighbours: int, num_classes: int) -> None:
    """12 clusters in no order of class; k of 50 is more than there are."""
    rng = np.random.default_rng(num_classes)
    class_of = rng.permutation(np.arange(12) % num_classes)
    centroids = reference.unit_rows(rng, 12, 3)
    queries = reference.unit_rows(rng, 30, 3)
    expected = _expected(rule, queries, centroids, class_of, num_classes, num_neighbours)
    settings = {"num_classes": num_classes, "rule": rule, "num_neighbours": num_neighbours}
    scores = scores_of(queries, centroids, class_of, **settings)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    for block_size in (None, 1, 7):
        predicted = predict(queries, centroids, class_of, **settings, block_size=block_size)
        assert predicted.dtype == np.int64
        np.testing.assert_array_equal(predicted, expected.argmax(axis=1))


@pytest.mark.parametrize("counts", [(1,) * 9, (1, 7, 1, 1, 3, 2, 12), (12, 1), (5, 5, 5), (40,)])
@pytest.mark.parametrize("num_neighbours", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("shuffled", [False, True])
def test_the_balanced_vote_equals_the_loops_for_classes_of_any_size(
    monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...], num_neighbours: int, shuffled: bool
) -> None:
    """Sorted by class, as in a table, and not; every third class has no cluster."""
    monkeypatch.setattr(
        "clustering.table.knc._BALANCED_ENTRIES", 3 * sum(counts)
    )  # 3 queries a block
    rng = np.random.default_rng(len(counts))
    classes = np.arange(3 * len(counts))[np.arange(3 * len(counts)) % 3 > 0][: len(counts)]
    class_of = np.repeat(classes, counts)
    class_of = rng.permutation(class_of) if shuffled else class_of
    centroids = reference.unit_rows(rng, len(class_of), 5)
    centroids[-1] = centroids[0]  # equal cosines
    queries = reference.unit_rows(rng, 10, 5)
    num_classes = int(classes.max()) + 2
    before = class_of.copy()
    expected = _expected("balanced", queries, centroids, class_of, num_classes, num_neighbours)
    settings = {"num_classes": num_classes, "rule": "balanced", "num_neighbours": num_neighbours}
    scores = scores_of(queries, centroids, class_of, **settings)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    predicted = predict(queries, centroids, class_of, **settings)
    np.testing.assert_array_equal(predicted, scores.argmax(axis=1))
    np.testing.assert_array_equal(class_of, before)


@pytest.mark.parametrize("block_size", [None, 7])
@pytest.mark.parametrize("rules", [RULES, RULES[::-1], ("soft", "margin")])
def test_all_rules_at_once_say_what_each_says_alone(
    monkeypatch: pytest.MonkeyPatch, rules: tuple[Rule, ...], block_size: int | None
) -> None:
    """To the last bit, in the order asked for, after one search of a block."""
    rng = np.random.default_rng(0)
    queries, centroids = reference.unit_rows(rng, 30, 3), reference.unit_rows(rng, 40, 3)
    arrays, blocks = (queries, centroids, rng.integers(0, 9, 40)), 1 if block_size is None else 5
    settings = {"num_classes": 11, "num_neighbours": 6, "block_size": block_size}
    alone = {rule: predict(*arrays, rule=rule, **settings) for rule in rules}
    scores_alone = {rule: scores_of(*arrays, rule=rule, **settings) for rule in rules}
    searches = []
    monkeypatch.setattr("clustering.table.knc.top_k", lambda *of: searches.append(1) or top_k(*of))
    found, scores = knc_predict(*arrays, rules=rules, scored=rules, **settings)
    assert tuple(found) == rules
    for rule in rules:
        np.testing.assert_array_equal(found[rule], alone[rule])
        np.testing.assert_array_equal(scores[rule], scores_alone[rule])
    assert len(searches) == blocks


@pytest.mark.parametrize("of_one", [True, False])
def test_the_votes_hold_little_at_a_time(of_one: bool) -> None:
    """The block that the docstring promises, however many classes there are."""
    num_clusters = 200_000
    class_of = np.arange(num_clusters) // (1 if of_one else 2)
    centroids = reference.unit_rows(np.random.default_rng(0), num_clusters, 2)
    tracemalloc.start()
    knc_predict(
        centroids[:90],
        centroids,
        class_of,
        num_classes=int(class_of[-1]) + 1,
        rules=RULES,
        num_neighbours=5,
    )
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 200 * 2**20


@pytest.mark.parametrize("rule", RULES)
def test_one_cluster_in_all(rule: Rule) -> None:
    settings = {"num_classes": 3, "rule": rule, "num_neighbours": 5}
    queries = reference.unit_rows(np.random.default_rng(0), 4, 3)
    scores = scores_of(queries, queries[:1], np.array([1]), **settings)
    assert np.isneginf(scores[:, [0, 2]]).all()
    assert predict(queries, queries[:1], np.array([1]), **settings).tolist() == [1] * 4


def test_margin_when_all_nearest_are_of_one_class() -> None:
    centroids = np.array([[1, 0], [0.8, 0.6], [-1, 0]], dtype=np.float32)
    scores = scores_of(
        centroids[:1],
        centroids,
        np.array([1, 1, 0]),
        num_classes=2,
        rule="margin",
        num_neighbours=2,
    )
    assert scores.tolist() == [[-np.inf, np.inf]]


@pytest.mark.parametrize("rule", RULES)
def test_of_equal_scores_the_lowest_class_wins(rule: Rule) -> None:
    """Classes 2 and 1 share a centroid, which is the query."""
    centroids = np.eye(3, dtype=np.float32)[[0, 1, 1]]
    class_of = np.array([0, 2, 1])
    settings = {"num_classes": 3, "rule": rule, "num_neighbours": 3}
    scores = scores_of(centroids[1:2], centroids, class_of, **settings)[0]
    assert scores[1] == scores[2] > scores[0]
    assert predict(centroids[1:2], centroids, class_of, **settings).tolist() == [1]


def test_duplicate_centroids_do_not_change_the_soft_vote() -> None:
    """A mean, not a sum: a class gains nothing by having its cluster twice."""
    centroids = np.eye(3, dtype=np.float32)[[0, 1, 1]]
    queries = reference.unit_rows(np.random.default_rng(1), 5, 3)
    settings = {"num_classes": 2, "rule": "soft", "num_neighbours": 3}
    twice = scores_of(queries, centroids, np.array([0, 1, 1]), **settings)
    once = scores_of(queries, centroids[:2], np.array([0, 1]), **settings)
    np.testing.assert_allclose(twice, once, rtol=1e-6)


def test_the_balanced_vote_does_not_favour_the_class_of_many_clusters() -> None:
    """Class 0 has 8 of its 36 clusters near the query, class 1 its only one, a little farther."""
    angles = np.array([0.2] * 8 + [2.0] * 28 + [-0.25])
    centroids = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    settings = {"num_classes": 2, "num_neighbours": 36}
    query, class_of = np.array([[1, 0]], dtype=np.float32), np.array([0] * 36 + [1])
    soft = predict(query, centroids, class_of, rule="soft", **settings | {"num_neighbours": 9})
    balanced = predict(query, centroids, class_of, rule="balanced", **settings)
    assert (soft.tolist(), balanced.tolist()) == ([0], [1])


@pytest.mark.parametrize("rule", ["soft", "balanced"])
def test_a_large_scale_does_not_overflow(rule: Rule) -> None:
    centroids = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    scores = scores_of(
        centroids[:1],
        centroids,
        np.array([0, 1]),
        num_classes=2,
        rule=rule,
        num_neighbours=2,
        scale=1e4,
    )
    assert scores.tolist() == [[1e4, -1e4]]


@pytest.mark.parametrize("rule", RULES)
def test_no_queries(rule: Rule) -> None:
    settings = {"num_classes": 2, "rule": rule, "num_neighbours": 2}
    centroids, class_of = np.eye(2, dtype=np.float32), np.array([0, 1])
    none = np.empty((0, 2), dtype=np.float32)
    assert scores_of(none, centroids, class_of, **settings).shape == (0, 2)
    assert predict(none, centroids, class_of, **settings).shape == (0,)


def test_nearest_class_mean() -> None:
    rng = np.random.default_rng(0)
    queries, means = reference.unit_rows(rng, 4, 3), reference.unit_rows(rng, 2, 3)
    scores = nearest_class_mean_scores(queries, means)
    expected = [[float(q @ m) for m in means] for q in queries]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "nearest"}, "rules must be of margin, soft and balanced, got 'nearest'"),
        ({"num_neighbours": 0}, "num_neighbours must be >= 1, got 0"),
        ({"scale": 0.0}, "scale must be > 0"),
        ({"num_classes": 1}, r"class_of must lie in 0..0, got 0..1"),
        ({"queries": np.ones((1, 3), dtype=np.float32)}, r"queries must be \(N, 2\).*got \(1, 3\)"),
        ({"queries": np.array([[0, np.nan]], dtype=np.float32)}, "query 0 is not finite"),
        ({"class_of": np.array([0])}, r"class_of \(M,\)"),
    ],
)
def test_wrong_arguments(change: dict, message: str) -> None:
    eye = np.eye(2, dtype=np.float32)
    arguments = {
        "queries": eye,
        "centroids": eye,
        "class_of": np.array([0, 1]),
        "num_classes": 2,
        "rule": "soft",
        "num_neighbours": 1,
    }
    arguments.update(change)
    positional = [arguments.pop(name) for name in ("queries", "centroids", "class_of")]
    with pytest.raises(ValueError, match=message):
        predict(*positional, **arguments)
