"""Read-outs by the k nearest training images of a query, which vote for its class.

Legend: N queries, D embedding, n training rows of a block, C classes, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from clustering.table.top_k import row_blocks, top_k
from data_shards.features.embeddings import EmbeddingShards
from trainer.config.sections import EvaluationConfig
from trainer.evaluation.readout import FloatArray, IntArray, Queries, needed

_HELD_ENTRIES = 1 << 24  # 64 MiB of queries and their neighbours
_SORTED_ROWS = 1 << 14  # at a time; after the first, only rows nearer than those found are sorted


def images_per_search(config: EvaluationConfig, *, dim: int, num_tasks: int) -> int:
    """Images whose embeddings, of D for each task, may be held in memory for a common search."""
    # Each neighbour takes a cosine, and a class of twice the bytes.
    entries = num_tasks * dim + 3 * _num_searched(config)
    return max(1, _HELD_ENTRIES // entries)


def nearest_images_vote(queries: Queries) -> IntArray:
    """The class for which the `evaluation.knn` nearest training images vote."""
    config = queries.context.config
    k = config.knn  # the nearest come first, so the smaller number's are the first columns
    found = queries.once(_search)
    return np.concatenate(
        [vote(c[:, :k], labels[:, :k], scale=config.soft_scale) for c, labels in found]
    )


def nearest_images_balanced_vote(queries: Queries) -> IntArray:
    """As `nearest_images_vote`, by `balanced_vote` of `evaluation.knn_balanced` images."""
    config, counts = queries.context.config, queries.context.class_counts
    k = config.knn_balanced
    return np.concatenate(
        [
            balanced_vote(c[:, :k], labels[:, :k], counts, scale=config.soft_scale)
            for c, labels in queries.once(_search)
        ]
    )


def nearest_images(
    batches: Sequence[FloatArray],
    training: Iterable[tuple[FloatArray, IntArray]],
    num_neighbours: int,
) -> list[tuple[FloatArray, IntArray]]:
    """Find the nearest training images of each query, block by block.

    Args:
        batches: (N, D) float32 unit rows each; each batch is searched separately.
        training: blocks of (n, D) float32 unit rows and their (n,) int64 classes.
        num_neighbours: k >= 1.

    Returns:
        For each batch (N, k) float32 cosines, descending, and the (N, k) int64 classes; fewer than
        k columns if there are fewer images. Of equally near images, the first comes first.
    """
    found = [
        (np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
        for queries in batches
    ]
    for rows, labels in training:
        for number, queries in enumerate(batches):
            cosines = queries @ rows.T
            for some in row_blocks(len(rows), 1, _SORTED_ROWS):
                found[number] = _nearer(
                    *found[number], cosines[:, some], labels[some], num_neighbours
                )
    return found


def vote(cosines: FloatArray, labels: IntArray, *, scale: float) -> IntArray:
    """The class with the largest sum of exp(scale * cosine) in each row (Wu et al., CVPR 2018).

    Args:
        cosines: (N, k) float32, descending, k >= 1.
        labels: (N, k) int64 classes.
        scale: > 0.

    Returns:
        (N,) int64; of classes with equal sums, the lowest.
    """
    return _best_class(_class_sums(cosines, labels, scale), labels)


def balanced_vote(
    cosines: FloatArray, labels: IntArray, class_counts: IntArray, *, scale: float
) -> IntArray:
    """As `vote`, each sum divided by the number of training images of its class.

    So a class gains nothing from having many images: the sum over the number is, up to a factor, an
    estimate of the class's density from those of its images that are near enough to matter.

    Args:
        cosines: (N, k) float32, descending, k >= 1.
        labels: (N, k) int64 classes in [0, C).
        class_counts: (C,) all training images of each class.
        scale: > 0.

    Returns:
        (N,) int64, always a class that is among the k; of classes with equal results, the lowest.
    """
    sums = _class_sums(cosines, labels, scale)
    return _best_class(sums / class_counts[labels], labels)


def _class_sums(cosines: FloatArray, labels: IntArray, scale: float) -> npt.NDArray[np.float64]:
    """(N, k) sum of exp(scale * cosine) over those of a row that are of the neighbour's class."""
    # Relative to the nearest, so that nothing overflows.
    weights = np.exp(scale * (cosines - cosines[:, :1]).astype(np.float64))
    # Summed by (row, class); comparing all neighbours with each other would take k * k entries.
    keys = labels + (labels.max(initial=0) + 1) * np.arange(len(labels))[:, None]
    _, pair_of = np.unique(keys.ravel(), return_inverse=True)
    # With weights, bincount returns floats, which its type stubs do not know.
    sums = np.bincount(pair_of, weights=weights.ravel()).astype(np.float64, copy=False)
    return sums[pair_of].reshape(labels.shape)


def _best_class(scores: npt.NDArray[np.float64], labels: IntArray) -> IntArray:
    """(N,) class with the largest of the (N, k) scores of a row; of equal ones, the lowest."""
    is_best = scores == scores.max(axis=1, keepdims=True)
    predicted: IntArray = np.where(is_best, labels, np.iinfo(np.int64).max).min(axis=1)
    return predicted


def _nearer(
    best: FloatArray,
    best_labels: IntArray,
    cosines: FloatArray,
    labels: IntArray,
    num_neighbours: int,
) -> tuple[FloatArray, IntArray]:
    """The k nearest of those found so far, (N, <= k), and of further ones, (N, n) and (n,)."""
    num_found = best.shape[1]
    if num_found < num_neighbours:
        of_all = np.broadcast_to(labels, cosines.shape)
        joined = np.concatenate([best, cosines], axis=1)
        joined_labels = np.concatenate([best_labels, of_all], axis=1)
    else:
        # Of equally near images, those found earlier come first, so few new ones must be sorted.
        query, column = np.nonzero(cosines > best[:, -1:])
        counts = np.bincount(query, minlength=len(best))
        place = num_found + np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        shape = len(best), num_found + counts.max(initial=0)
        joined, joined_labels = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int64)
        joined[:, :num_found], joined_labels[:, :num_found] = best, best_labels
        joined[query, place], joined_labels[query, place] = cosines[query, column], labels[column]
    nearest, best = top_k(joined, min(num_neighbours, joined.shape[1]))
    return best, np.take_along_axis(joined_labels, nearest, axis=1)


def _search(queries: Queries) -> list[tuple[FloatArray, IntArray]]:
    """The nearest training images of every query, as many as the larger of the votes asks for."""
    config = queries.context.config
    blocks = _blocks(needed(queries.context.training), config)
    return nearest_images(queries.batches, blocks, _num_searched(config))


def _num_searched(config: EvaluationConfig) -> int:
    return max(config.knn, config.knn_balanced)


def _blocks(
    training: EmbeddingShards, config: EvaluationConfig
) -> Iterator[tuple[FloatArray, IntArray]]:
    for block in row_blocks(training.num_rows, max(config.batch_size, training.dim)):
        rows = training.rows(np.arange(block.start, block.stop))
        yield rows, training.labels[block]
