"""Exact evaluation in parts: fixed batches, counts that add up; no gathering, no padding."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import numpy as np
import numpy.typing as npt

from clustering.table.table import ClusterTable
from data_shards.errors import DataError
from data_shards.features.embeddings import EmbeddingShards
from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import SplitInfo
from trainer.config.readout_names import HEAD_TAU, READOUTS
from trainer.config.sections import EvaluationConfig, TaskConfig
from trainer.evaluation.counts import ClassCounts
from trainer.evaluation.knn import images_a_search, predict_by_images
from trainer.evaluation.readouts import predict, readouts
from trainer.losses.outputs import TaskOutput
from trainer.models.embed import decode_batch, embed_images
from trainer.models.network import Network

Batch = tuple[int, int]
"""[start, stop) positions in the split's order; never across a shard's border."""


def evaluation_batches(split: SplitInfo, batch_size: int) -> list[Batch]:
    """Cut a split into batches that do not depend on how many workers share them."""
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
    """Classify some batches of a split and count.

    Args:
        network: in evaluation mode.
        index: the split's samples.
        batches: this worker's share of `evaluation_batches`.
        tasks: what is evaluated.
        tables: task -> its clusters; a task without one is read out by its head alone.
        config: settings of the read-outs.
        class_counts: task -> (C,) training images of each class.
        training: task -> embeddings of the training images, for the read-outs by the nearest of
            them; or None.
        reader_threads: that read and decode the next batches, one each, while the network is at
            work on one; 0 = each is read when it is needed.

    Returns:
        (task, read-out) -> counts. The keys are the same for any share, also an empty one. There
        are none for a network without a classifier before the first table.

    Raises:
        DataError: an image cannot be read.
    """
    counts = _zeros(network, tasks, tables, config, has_training=training is not None)
    if not counts:
        return counts
    most = images_a_search(config, dim=network.embedding_dim, num_tasks=len(tasks))
    with closing(_read_ahead(index, batches, network, reader_threads)) as images:
        for group in _groups(batches, most):
            waiting: dict[str, list[npt.NDArray[np.float32]]] = {task.name: [] for task in tasks}
            for start, stop in group:
                outputs = embed_images(network, next(images))
                for task in tasks:
                    predictions = predict_task(
                        network,
                        outputs[task.name],
                        task.name,
                        table=tables.get(task.name),
                        config=config,
                        class_counts=class_counts[task.name],
                    )
                    _add(counts, task.name, predictions, index.labels(task.label)[start:stop])
                    if training is not None:
                        embedding = outputs[task.name].embedding.float().cpu().numpy()
                        waiting[task.name].append(embedding)
            if training is None:
                continue
            positions = np.concatenate([np.arange(*batch) for batch in group])
            for task in tasks:
                predictions = predict_by_images(
                    waiting[task.name],
                    training[task.name],
                    class_counts=class_counts[task.name],
                    config=config,
                )
                _add(counts, task.name, predictions, index.labels(task.label)[positions])
    return counts


def predict_task(  # noqa: PLR0913 - all that a read-out may look at
    network: Network,
    output: TaskOutput,
    task: str,
    *,
    table: ClusterTable | None,
    config: EvaluationConfig,
    class_counts: npt.NDArray[np.int64],
    wanted: Collection[str] = READOUTS,
) -> Mapping[str, npt.NDArray[np.int64]]:
    """Classify images by the read-outs of one task, but for those by training images.

    Args:
        network: that the output comes from.
        output: of the task, of N images.
        task: its name.
        table: its clusters; None leaves only the classifiers.
        config: settings of the read-outs.
        class_counts: (C,) training images of each class.
        wanted: nothing is computed for others.

    Returns:
        read-out -> (N,) predicted classes.
    """
    tau_logits = None
    if config.tau > 0 and HEAD_TAU in wanted:
        tau_logits = network.head(task).tau_logits(output, config.tau)
    return predict(
        output, table, config, class_counts=class_counts, tau_logits=tau_logits, wanted=wanted
    )


def _zeros(
    network: Network,
    tasks: Sequence[TaskConfig],
    tables: Mapping[str, ClusterTable],
    config: EvaluationConfig,
    *,
    has_training: bool,
) -> dict[tuple[str, str], ClassCounts]:
    counts = {}
    for task in tasks:
        zero = np.zeros(network.num_classes[task.name], np.int64)
        for readout in readouts(tables.get(task.name), config, network, has_training=has_training):
            counts[task.name, readout] = ClassCounts(zero, zero)
    return counts


def _add(
    counts: dict[tuple[str, str], ClassCounts],
    task: str,
    predictions: Mapping[str, npt.NDArray[np.int64]],
    labels: npt.NDArray[np.int64],
) -> None:
    for readout, predicted in predictions.items():
        former = counts[task, readout]
        counts[task, readout] = former + ClassCounts.of(predicted, labels, len(former.total))


def _groups(batches: Sequence[Batch], most: int) -> Iterator[list[Batch]]:
    """Neighbouring batches of at most that many images together, or single ones of more."""
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
    """Images of each batch, in order; as many batches as there are threads are on the way."""
    if not num_threads:
        for batch in batches:
            yield _read_images(index, batch, network)
        return
    coming: deque[Future[np.ndarray]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="evaluation")
    try:
        for batch in batches:
            coming.append(pool.submit(_read_images, index, batch, network))
            if len(coming) > num_threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read_images(index: SampleIndex, batch: Batch, network: Network) -> np.ndarray:
    ids = index.ids[slice(*batch)]
    try:
        return decode_batch((index.read(int(i)) for i in ids), network)
    except DataError as error:
        raise DataError(f"among samples {ids[0]} to {ids[-1]}: {error}; import again") from error
