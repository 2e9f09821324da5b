"""The k nearest training images of a test image, and the classes that they vote for.

Legend: N queries, D embedding, n training rows of a block, C classes, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clustering.table.table import ClusterTable
from clustering.table.top_k import row_blocks, top_k
from data_shards.errors import DataError
from data_shards.features.embeddings import EmbeddingShards
from trainer.config.readout_names import NEAREST_IMAGES, NEAREST_IMAGES_BALANCED
from trainer.config.sections import EvaluationConfig, TaskConfig

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

_HELD_ENTRIES = 1 << 24  # 64 MiB of queries and what was found for them
_SORTED_ROWS = 1 << 14  # the first ones: of others, only those that are nearer than these


def neighbour_readouts(config: EvaluationConfig) -> list[str]:
    """Names of the read-outs by the nearest training images that a configuration asks for."""
    wanted = {NEAREST_IMAGES: config.knn, NEAREST_IMAGES_BALANCED: config.knn_balanced}
    return [readout for readout, num_neighbours in wanted.items() if num_neighbours]


def missing_embeddings(config: EvaluationConfig, step: int, folder: Path) -> str:
    """What to say when there are no `training_embeddings` in their folder."""
    return (
        f"no read-out {', '.join(neighbour_readouts(config))}: the embeddings of the training "
        f"images by the weights of step {step} are kept for the newest table alone; make them with "
        f"`clmle embed --split train --snapshot {step} --out {folder}` and evaluate again"
    )


def training_embeddings(
    folder: Path, tasks: Sequence[TaskConfig], tables: Mapping[str, ClusterTable]
) -> dict[str, EmbeddingShards] | None:
    """The embeddings from which tables were made, as the clustering service left them.

    Args:
        folder: `RUN/embeddings/step_...`.
        tasks: of the run.
        tables: task -> the table of that step.

    Returns:
        task -> its embeddings; None if they were removed for those of a newer step, or replaced.
    """
    try:
        opened = {task.name: EmbeddingShards.open(folder / task.name, False) for task in tasks}
    except DataError:
        return None
    weights = {task: table.stats.get("snapshot_checksum") for task, table in tables.items()}
    of_table = [shards.origin.split(":")[0] == weights.get(t) for t, shards in opened.items()]
    return opened if all(of_table) else None


def images_a_search(config: EvaluationConfig, *, dim: int, num_tasks: int) -> int:
    """Images, of D and some tasks, whose embeddings may wait for one `predict_by_images` each."""
    # A found image takes a cosine and a class, of twice the bytes.
    entries = num_tasks * dim + 3 * _num_searched(config)
    return max(1, _HELD_ENTRIES // entries)


def predict_by_images(
    batches: Sequence[FloatArray],
    training: EmbeddingShards,
    *,
    class_counts: IntArray,
    config: EvaluationConfig,
) -> dict[str, IntArray]:
    """Predict the class for which the nearest training images vote, after a single search.

    A batch gets the same classes, to the last bit of what they follow from, whatever others there
    are: so any division of a split over workers says the same.

    Args:
        batches: (n, D) float32 unit rows each, n <= `config.batch_size`; N rows in all.
        training: embeddings on the disk; read once, block by block.
        class_counts: (C,) training images of each class.
        config: the two numbers of neighbours, of which more than there are count as all, and the
            scale of the votes.

    Returns:
        Read-out (`neighbour_readouts`) -> (N,) int64 classes.
    """
    if not neighbour_readouts(config):
        return {}
    found = nearest_images(batches, _blocks(training, config), _num_searched(config))
    scale, predictions = config.soft_scale, {}
    # The nearest come first, so a smaller number's are the first columns.
    if k := config.knn:
        by_batch = [vote(c[:, :k], labels[:, :k], scale=scale) for c, labels in found]
        predictions[NEAREST_IMAGES] = np.concatenate(by_batch)
    if k := config.knn_balanced:
        by_batch = [
            balanced_vote(c[:, :k], labels[:, :k], class_counts, scale=scale) for c, labels in found
        ]
        predictions[NEAREST_IMAGES_BALANCED] = np.concatenate(by_batch)
    return predictions


def nearest_images(
    batches: Sequence[FloatArray],
    training: Iterable[tuple[FloatArray, IntArray]],
    num_neighbours: int,
) -> list[tuple[FloatArray, IntArray]]:
    """Find the nearest training images of each query, block by block.

    Args:
        batches: (N, D) float32 unit rows each, searched for one batch after the other.
        training: blocks of (n, D) float32 unit rows and their (n,) int64 classes.
        num_neighbours: k >= 1.

    Returns:
        For each batch (N, k) float32 cosines, descending, and the (N, k) int64 classes; fewer than
        k columns if there are fewer images. Of images equally near, the first comes first.
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

    So a class gains nothing by having many images: sum over number is, up to a factor, the estimate
    of the class's own density by those of its images that are near enough to matter.

    Args:
        cosines: (N, k) float32, descending, k >= 1.
        labels: (N, k) int64 classes in [0, C).
        class_counts: (C,) training images of each class, near or not.
        scale: > 0.

    Returns:
        (N,) int64, always a class that is among the k; of classes with equal results, the lowest.
    """
    sums = _class_sums(cosines, labels, scale)
    return _best_class(sums / class_counts[labels], labels)


def _class_sums(cosines: FloatArray, labels: IntArray, scale: float) -> npt.NDArray[np.float64]:
    """(N, k) sum of exp(scale * cosine) over those of a row that are of the neighbour's class."""
    # Relative to the nearest, so that none is too large for a float.
    weights = np.exp(scale * (cosines - cosines[:, :1]).astype(np.float64))
    # Summed by (row, class): comparing all neighbours with each other would take k * k entries.
    keys = labels + (labels.max(initial=0) + 1) * np.arange(len(labels))[:, None]
    _, pair_of = np.unique(keys.ravel(), return_inverse=True)
    # With weights it is of floats, which its types do not know.
    sums = np.bincount(pair_of, weights=weights.ravel()).astype(np.float64, copy=False)
    return sums[pair_of].reshape(labels.shape)


def _best_class(scores: npt.NDArray[np.float64], labels: IntArray) -> IntArray:
    """(N,) the lowest class among those with the largest of the (N, k) scores of their row."""
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
    """Take up to k of those found before, (N, <= k), and of further images, (N, n) and (n,)."""
    num_found = best.shape[1]
    if num_found < num_neighbours:
        of_all = np.broadcast_to(labels, cosines.shape)
        joined = np.concatenate([best, cosines], axis=1)
        joined_labels = np.concatenate([best_labels, of_all], axis=1)
    else:
        # Of images equally near those found before come first, so few are left to be sorted.
        query, column = np.nonzero(cosines > best[:, -1:])
        counts = np.bincount(query, minlength=len(best))
        place = num_found + np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        shape = len(best), num_found + counts.max(initial=0)
        joined, joined_labels = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int64)
        joined[:, :num_found], joined_labels[:, :num_found] = best, best_labels
        joined[query, place], joined_labels[query, place] = cosines[query, column], labels[column]
    nearest, best = top_k(joined, min(num_neighbours, joined.shape[1]))
    return best, np.take_along_axis(joined_labels, nearest, axis=1)


def _num_searched(config: EvaluationConfig) -> int:
    return max(config.knn, config.knn_balanced)


def _blocks(
    training: EmbeddingShards, config: EvaluationConfig
) -> Iterator[tuple[FloatArray, IntArray]]:
    for block in row_blocks(training.num_rows, max(config.batch_size, training.dim)):
        rows = training.rows(np.arange(block.start, block.stop))
        yield rows, training.labels[block]
