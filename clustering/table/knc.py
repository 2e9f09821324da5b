"""k-nearest-cluster rules: the class of a query, from the clusters of all classes.

Pure: arrays in, arrays out. The caller splits queries over ranks or workers.

Rule "margin" is that of LMLE: with d the Euclidean distance and m over the k nearest clusters,
score_c = min over m not of c of d(q, m) - max over m of c of d(q, m). If all k are of one class,
its score is +inf. Rule "soft" is a vote: score_c = log mean exp(scale * cos(q, m)) over the
clusters m of c among the k. Rule "balanced" is the soft vote over the k nearest clusters of each
class, or over all of a class that has fewer: a class does not gain by having many clusters, as its
vote is then the density of an equally weighted mixture.

Legend: N queries, D embedding, M clusters, C classes, k nearest clusters, P pairs of a query and a
class that owns at least one of its k nearest clusters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from clustering.table.top_k import row_blocks, top_k

Rule = Literal["margin", "soft", "balanced"]

# "balanced" holds up to five float32 arrays of this size: 160 MiB.
_BALANCED_ENTRIES = 1 << 23


class KncPrediction(NamedTuple):
    """What the rules say of the queries."""

    classes: dict[Rule, npt.NDArray[np.int64]]
    """Rule -> (N,) the class with the largest score; of equal ones, the lowest."""
    scores: dict[Rule, npt.NDArray[np.float32]]
    """Rule -> (N, C), larger is better; -inf for a class with none of the nearest clusters."""


def knc_predict(  # noqa: PLR0913 - a settings class would only rename these
    queries: npt.NDArray[np.float32],
    centroids: npt.NDArray[np.float32],
    class_of: npt.NDArray[np.int64],
    *,
    num_classes: int,
    rules: Collection[Rule],
    num_neighbours: int,
    scale: float = 16.0,
    scored: Collection[Rule] = (),
    block_size: int | None = None,
) -> KncPrediction:
    """Predict the class of every query by each rule, with a single search.

    Args:
        queries: (N, D) float32, unit rows.
        centroids: (M, D) float32, unit rows.
        class_of: (M,) int64, class of each cluster, 0 .. num_classes - 1.
        num_classes: C.
        rules: of "margin", "soft" and "balanced".
        num_neighbours: k >= 1, of a query or ("balanced") of each class; all of them if
            there are fewer.
        scale: sharpness of the votes, > 0; the margin rule ignores it.
        scored: those of the rules whose scores of all classes are wanted, too.
        block_size: queries at a time; None for as many as fit in about 200 MiB.

    Raises:
        ValueError: on wrong shapes or settings, or a query that is not finite.
    """
    _check(queries, centroids, class_of, num_classes)
    votes = _Votes(rules, num_neighbours, scale)
    shape = (len(queries), num_classes)
    scores = {rule: np.full(shape, -np.inf, dtype=np.float32) for rule in scored}
    predictions = {rule: np.empty(len(queries), dtype=np.int64) for rule in rules}
    block_size = block_size or votes.block_size(len(centroids))
    for rows in row_blocks(len(queries), len(centroids), block_size):
        for rule, vote in votes.of(queries[rows], centroids, class_of):
            predictions[rule][rows] = vote.best_class()
            if rule in scores:
                vote.put_in(scores[rule][rows])
    return KncPrediction(predictions, scores)


def nearest_class_mean_scores(
    queries: npt.NDArray[np.float32], class_means: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Score each class by the cosine of the query and the class mean.

    Args:
        queries: (N, D) float32, unit rows.
        class_means: (C, D) float32, unit rows.

    Returns:
        (N, C) float32.
    """
    return queries @ class_means.T


@dataclass(frozen=True)
class _Pairs:
    """Scores of the classes that own some of the k nearest clusters; by query, then class."""

    query: npt.NDArray[np.int64]
    """(P,) row of the query in its block; every query occurs."""
    class_: npt.NDArray[np.int64]
    """(P,)"""
    score: npt.NDArray[np.float32]
    """(P,)"""

    def put_in(self, scores: npt.NDArray[np.float32]) -> None:
        """Write them into the (N, C) scores of the block."""
        scores[self.query, self.class_] = self.score

    def best_class(self) -> npt.NDArray[np.int64]:
        """The class of the best score of each query; the lowest of equal ones."""
        starts = _run_starts(self.query)
        best = np.maximum.reduceat(self.score, starts)
        at_best = np.flatnonzero(self.score == best[self.query])
        return self.class_[at_best[_run_starts(self.query[at_best])]]


@dataclass(frozen=True)
class _OfAll:
    """Scores of every class that has clusters, for every query."""

    classes: npt.NDArray[np.int64]
    """(classes with clusters,) ascending."""
    scores: npt.NDArray[np.float32]
    """(N, classes with clusters)"""

    def put_in(self, scores: npt.NDArray[np.float32]) -> None:
        """Write them into the (N, C) scores of the block."""
        scores[:, self.classes] = self.scores

    def best_class(self) -> npt.NDArray[np.int64]:
        """The class of the best score of each query; the lowest of equal ones."""
        best: npt.NDArray[np.int64] = self.classes[self.scores.argmax(axis=1)]
        return best


@dataclass(frozen=True)
class _Votes:
    """Some of the rules and their settings."""

    rules: Collection[Rule]
    num_neighbours: int
    scale: float

    def __post_init__(self) -> None:
        for rule in self.rules:
            if rule not in get_args(Rule):
                raise ValueError(f"rules must be of margin, soft and balanced, got {rule!r}")
        if self.num_neighbours < 1:
            raise ValueError(f"num_neighbours must be >= 1, got {self.num_neighbours}")
        if not 0 < self.scale < np.inf:
            raise ValueError(f"scale must be > 0 and finite, got {self.scale}")

    def block_size(self, num_clusters: int) -> int | None:
        """Queries to vote for at a time; None for as many as `row_blocks` takes."""
        if "balanced" not in self.rules:
            return None
        return max(1, _BALANCED_ENTRIES // num_clusters)

    def of(
        self,
        queries: npt.NDArray[np.float32],
        centroids: npt.NDArray[np.float32],
        class_of: npt.NDArray[np.int64],
    ) -> Iterator[tuple[Rule, _Pairs | _OfAll]]:
        """Score the classes of a block of queries by each rule, in no order."""
        cosines = queries @ centroids.T
        yield from self._of_nearest(cosines, class_of)
        if "balanced" in self.rules:  # last, as it overwrites the cosines
            yield "balanced", self._balanced(cosines, class_of)

    def _of_nearest(
        self, cosines: npt.NDArray[np.float32], class_of: npt.NDArray[np.int64]
    ) -> Iterator[tuple[Rule, _Pairs]]:
        """Rules "margin" and "soft".

        Args:
            cosines: (N, M) of queries and clusters.
            class_of: (M,) of the clusters.
        """
        if not {"margin", "soft"} & set(self.rules):
            return
        num_nearest = min(self.num_neighbours, len(class_of))
        nearest, cosines = top_k(cosines, num_nearest)
        classes = class_of[nearest]
        # Sorted by class within each query, the clusters of a pair lie side by side.
        order = np.argsort(classes, axis=1, kind="stable")
        query = np.repeat(np.arange(len(cosines)), num_nearest)
        class_ = np.take_along_axis(classes, order, axis=1).ravel()
        starts = _run_starts(query, class_)
        query, class_ = query[starts], class_[starts]
        by_class = np.take_along_axis(cosines, order, axis=1).ravel()
        if "soft" in self.rules:
            score = _log_mean_exp(self.scale * by_class.astype(np.float64), starts)
            yield "soft", _Pairs(query, class_, score.astype(np.float32))
        if "margin" in self.rules:
            farthest = np.maximum.reduceat(_distance(by_class), starts)
            score = _nearest_of_others(cosines, classes, query, class_) - farthest
            yield "margin", _Pairs(query, class_, score.astype(np.float32))

    def _balanced(
        self, cosines: npt.NDArray[np.float32], class_of: npt.NDArray[np.int64]
    ) -> _OfAll:
        """Rule "balanced".

        Args:
            cosines: (N, M) of queries and clusters; overwritten.
            class_of: (M,) of the clusters.
        """
        if (class_of[1:] < class_of[:-1]).any():  # those of a table are sorted
            order = np.argsort(class_of, kind="stable")
            cosines, class_of = cosines.take(order, axis=1), class_of[order]
        starts = _run_starts(class_of)
        votes = np.multiply(cosines, np.float32(self.scale), out=cosines)
        return _OfAll(class_of[starts], _class_votes(votes, starts, self.num_neighbours))


def _class_votes(
    votes: npt.NDArray[np.float32], starts: npt.NDArray[np.int64], num_nearest: int
) -> npt.NDArray[np.float32]:
    """log(mean(exp(votes))) over the largest votes of each class.

    Args:
        votes: (N, M) scaled cosines, sorted by class; overwritten.
        starts: (classes,) where each class begins.
        num_nearest: votes of a class that count, at most.

    Returns:
        (N, classes) float32.
    """
    sizes = np.diff(starts, append=votes.shape[1])
    if sizes.max() == 1:
        return votes
    for class_ in np.flatnonzero(sizes > num_nearest).tolist():
        own = votes[:, starts[class_] : starts[class_] + sizes[class_]]
        num_farther = own.shape[1] - num_nearest
        own.partition(num_farther, axis=1)
        own[:, :num_farther] = -np.inf
    largest = np.maximum.reduceat(votes, starts, axis=1)
    votes -= np.repeat(largest, sizes, axis=1)
    # Pairwise, so float32 is exact enough also for a class of many thousand clusters.
    scores = np.add.reduceat(np.exp(votes, out=votes), starts, axis=1)
    scores /= np.minimum(sizes, num_nearest).astype(np.float32)
    np.log(scores, out=scores)
    scores += largest
    return scores


def _nearest_of_others(
    cosines: npt.NDArray[np.float32],
    classes: npt.NDArray[np.int64],
    query: npt.NDArray[np.int64],
    class_: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """(P,) distance of the nearest cluster of another class than the pair's; inf if there is none.

    Args:
        cosines: (N, k) of the nearest clusters, descending.
        classes: (N, k) of the nearest clusters.
        query: (P,) of the pairs.
        class_: (P,) of the pairs.
    """
    distances = _distance(cosines)
    # For all classes but one, that is the nearest cluster of all.
    others = classes != classes[:, :1]
    second = np.where(others, distances, np.inf).min(axis=1)
    nearest: npt.NDArray[np.float64] = np.where(
        class_ == classes[query, 0], second[query], distances[query, 0]
    )
    return nearest


def _log_mean_exp(
    values: npt.NDArray[np.float64], starts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """log(mean(exp(values))) of each run of values, the runs given by where they start."""
    lengths = np.diff(starts, append=len(values))
    largest = np.maximum.reduceat(values, starts)
    sums = np.add.reduceat(np.exp(values - np.repeat(largest, lengths)), starts)
    result: npt.NDArray[np.float64] = largest + np.log(sums / lengths)
    return result


def _distance(cosines: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Euclidean distances of unit vectors with these cosines."""
    squared = np.maximum(0.0, 2.0 - 2.0 * cosines.astype(np.float64))
    distances: npt.NDArray[np.float64] = np.sqrt(squared)
    return distances


def _run_starts(*keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Positions at which any of the keys differs from the position before, and 0."""
    changed = np.zeros(len(keys[0]), dtype=bool)
    changed[:1] = True
    for key in keys:
        changed[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(changed)


def _check(
    queries: npt.NDArray[np.float32],
    centroids: npt.NDArray[np.float32],
    class_of: npt.NDArray[np.int64],
    num_classes: int,
) -> None:
    if centroids.ndim != 2 or not len(centroids) or class_of.shape != (len(centroids),):
        raise ValueError(
            "centroids must be (M, D) with M >= 1 and class_of (M,), "
            f"got {centroids.shape} and {class_of.shape}"
        )
    if queries.ndim != 2 or queries.shape[1] != centroids.shape[1]:
        raise ValueError(
            f"queries must be (N, {centroids.shape[1]}) to fit the clusters, got {queries.shape}; "
            "were the clusters made by a model with another embedding dimension?"
        )
    if class_of.min() < 0 or class_of.max() >= num_classes:
        raise ValueError(
            f"class_of must lie in 0..{num_classes - 1}, got {class_of.min()}..{class_of.max()}"
        )
    finite = np.isfinite(queries).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"query {np.argmin(finite)} is not finite, nor are {np.count_nonzero(~finite) - 1} "
            "others; did the training run diverge?"
        )
