"""Exact evaluation in parts: fixed batches, and counts that add up; no gathering, no padding."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import numpy as np
import numpy.typing as npt

from clustering.table.table import ClusterTable
from data_shards.errors import DataError
from data_shards.features.embeddings import EmbeddingShards
from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import SplitInfo
from trainer.config.sections import EvaluationConfig, TaskConfig
from trainer.evaluation.counts import ClassCounts
from trainer.evaluation.knn import images_per_search
from trainer.evaluation.readout import TaskContext
from trainer.evaluation.registry import (
    available_readouts,
    by_training_images,
    predict,
    predict_by_training_images,
)
from trainer.losses.outputs import TaskOutput
from trainer.models.embed import decode_batch, embed_images
from trainer.models.network import Network

Batch = tuple[int, int]
"""[start, stop) positions in the split's order; never across shards."""


def evaluation_batches(split: SplitInfo, batch_size: int) -> list[Batch]:
    """Cut a split into batches, the same for any number of workers."""
    batches, first = [], 0
    for shard in split.shards:
        end = first + shard.num_samples
        batches += [(at, min(at + batch_size, end)) for at in range(first, end, batch_size)]
        first = end
    return batches


def count_batches(  # noqa: PLR0913 - all that a read-out may look at
    network: Network,
    index: SampleIndex,
    batches: Sequence[Batch],
    *,
    tasks: Sequence[TaskConfig],
    tables: Mapping[str, ClusterTable],
    config: EvaluationConfig,
    class_counts: Mapping[str, npt.NDArray[np.int64]],
    training: Mapping[str, EmbeddingShards] | None = None,
    reader_threads: int = 1,
) -> dict[tuple[str, str], ClassCounts]:
    """Classify some batches of a split and count correct predictions.

    Args:
        network: in evaluation mode.
        index: the split's samples.
        batches: this worker's part of `evaluation_batches`.
        tasks: what is evaluated.
        tables: task -> its clusters; a task without a table has only the read-outs that need none.
        config: settings of the read-outs.
        class_counts: task -> (C,) training images of each class.
        training: task -> embeddings of the training images; None if there are none, and so no
            read-outs by training images.
        reader_threads: each reads and decodes one of the next batches while the network computes;
            0 = a batch is read when it is needed.

    Returns:
        (task, read-out) -> counts. The keys do not depend on the batches, which may be none. There
        are no keys for a network without a classifier before the first table.

    Raises:
        DataError: an image cannot be read.
    """
    counters = {}
    for task in tasks:
        context = TaskContext(
            head=network.head(task.name),
            config=config,
            class_counts=class_counts[task.name],
            table=tables.get(task.name),
            training=None if training is None else training[task.name],
        )
        counters[task.name] = _TaskCounter(context, index.labels(task.label))
    if not any(counter.counts for counter in counters.values()):
        return {}
    most = images_per_search(config, dim=network.embedding_dim, num_tasks=len(tasks))
    with closing(_read_ahead(index, batches, network, reader_threads)) as images:
        for group in _groups(batches, most):
            for batch in group:
                outputs = embed_images(network, next(images))
                for name, counter in counters.items():
                    counter.add(outputs[name], batch)
            for counter in counters.values():
                counter.search(group)
    return {(name, r): found for name, c in counters.items() for r, found in c.counts.items()}


class _TaskCounter:
    """Classifies the images of one task by all of its read-outs, and counts."""

    def __init__(self, context: TaskContext, labels: npt.NDArray[np.int64]) -> None:
        """Start from zero.

        Args:
            context: of the task.
            labels: (N,) classes of all images of the split, in its order.
        """
        readouts = available_readouts(context)
        self.counts = {readout: ClassCounts.zero(len(context.class_counts)) for readout in readouts}
        """Read-out -> counts so far."""
        self._context = context
        self._labels = labels
        self._searches = any(map(by_training_images, readouts))
        self._kept: list[npt.NDArray[np.float32]] = []

    def add(self, output: TaskOutput, batch: Batch) -> None:
        """Count a batch by all read-outs except those by training images, for which it is kept."""
        self._count(predict(self._context, output), self._labels[slice(*batch)])
        if self._searches:
            self._kept.append(output.embedding.float().cpu().numpy())

    def search(self, group: Sequence[Batch]) -> None:
        """Count the kept batches, which are these, by the read-outs by training images."""
        if self._searches:
            predictions = predict_by_training_images(self._context, self._kept)
            self._kept = []
            self._count(predictions, np.concatenate([self._labels[slice(*b)] for b in group]))

    def _count(
        self, predictions: Mapping[str, npt.NDArray[np.int64]], labels: npt.NDArray[np.int64]
    ) -> None:
        for readout, predicted in predictions.items():
            former = self.counts[readout]
            self.counts[readout] = former + ClassCounts.of(predicted, labels, len(former.total))


def _groups(batches: Sequence[Batch], most: int) -> Iterator[list[Batch]]:
    """Consecutive batches with at most that many images in all; a larger batch is alone."""
    group: list[Batch] = []
    num_images = 0
    for start, stop in batches:
        if group and num_images + stop - start > most:
            yield group
            group, num_images = [], 0
        group.append((start, stop))
        num_images += stop - start
    if group:
        yield group


def _read_ahead(
    index: SampleIndex, batches: Sequence[Batch], network: Network, num_threads: int
) -> Generator[np.ndarray]:
    """Images of each batch, in order; as many batches as threads are read ahead."""
    if not num_threads:
        for batch in batches:
            yield _read_images(index, batch, network)
        return
    pending: deque[Future[np.ndarray]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="evaluation")
    try:
        for batch in batches:
            pending.append(pool.submit(_read_images, index, batch, network))
            if len(pending) > num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read_images(index: SampleIndex, batch: Batch, network: Network) -> np.ndarray:
    ids = index.ids[slice(*batch)]
    try:
        return decode_batch((index.read(int(i)) for i in ids), network)
    except DataError as error:
        raise DataError(f"among samples {ids[0]} to {ids[-1]}: {error}; import again") from error
