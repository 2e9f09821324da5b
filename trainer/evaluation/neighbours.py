"""The k nearest training images of a test image, and the class that they vote for.

Legend: N queries, D embedding, n training rows of a block, C classes, k neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clustering.table import ClusterTable
from clustering.top_k import row_blocks, top_k
from data_shards.embeddings import EmbeddingShards
from data_shards.errors import DataError
from trainer.sections import TaskConfig

MISSING_EMBEDDINGS = (
    "the embeddings of the training images by the weights of step {step} are not in the run's "
    "folder (they are kept for the newest table alone); `clmle recluster --once` makes them"
)

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


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


def knn_predict(
    queries: FloatArray, training: EmbeddingShards, *, num_neighbours: int, scale: float
) -> IntArray:
    """Predict the class for which the nearest training images vote.

    Each of the k votes with weight exp(scale * cosine), as in Wu et al., CVPR 2018.

    Args:
        queries: (N, D) float32 unit rows.
        training: embeddings on the disk; read block by block.
        num_neighbours: k >= 1; more than there are counts as all.
        scale: sharpness of the votes, > 0.

    Returns:
        (N,) int64; of classes with equal votes, the lowest.
    """
    cosines, labels = nearest_images(queries, _blocks(training, len(queries)), num_neighbours)
    return vote(cosines, labels, scale=scale)


def nearest_images(
    queries: FloatArray, training: Iterable[tuple[FloatArray, IntArray]], num_neighbours: int
) -> tuple[FloatArray, IntArray]:
    """Find the nearest training images of each query, block by block.

    Args:
        queries: (N, D) float32 unit rows.
        training: blocks of (n, D) float32 unit rows and their (n,) int64 classes.
        num_neighbours: k >= 1.

    Returns:
        (N, k) float32 cosines, descending, and the (N, k) int64 classes; fewer than k columns if
        there are fewer images. Of images equally near, the first comes first.
    """
    best = np.empty((len(queries), 0), np.float32)
    best_labels = np.empty((len(queries), 0), np.int64)
    for rows, labels in training:
        joined = np.concatenate([best, queries @ rows.T], axis=1)
        of_block = np.broadcast_to(labels, (len(queries), len(labels)))
        joined_labels = np.concatenate([best_labels, of_block], axis=1)
        columns, best = top_k(joined, min(num_neighbours, joined.shape[1]))
        best_labels = np.take_along_axis(joined_labels, columns, axis=1)
    return best, best_labels


def vote(cosines: FloatArray, labels: IntArray, *, scale: float) -> IntArray:
    """The class with the largest sum of exp(scale * cosine) in each row.

    Args:
        cosines: (N, k) float32, descending, k >= 1.
        labels: (N, k) int64 classes.
        scale: > 0.

    Returns:
        (N,) int64; of classes with equal sums, the lowest.
    """
    # Relative to the nearest, so that no vote is too large for a float.
    votes = np.exp(scale * (cosines - cosines[:, :1]).astype(np.float64))
    same = labels[:, :, None] == labels[:, None, :]
    sums = (same * votes[:, None, :]).sum(axis=2)
    is_best = sums == sums.max(axis=1, keepdims=True)
    predicted: IntArray = np.where(is_best, labels, np.iinfo(np.int64).max).min(axis=1)
    return predicted


def _blocks(training: EmbeddingShards, num_queries: int) -> Iterator[tuple[FloatArray, IntArray]]:
    for block in row_blocks(training.num_rows, max(num_queries, training.dim)):
        rows = training.rows(np.arange(block.start, block.stop))
        yield rows, training.labels[block]
