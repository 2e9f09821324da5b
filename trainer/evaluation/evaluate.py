"""Exact evaluation in parts: fixed batches, counts that add up; no gathering, no padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from clustering.table import ClusterTable
from data_shards.embeddings import EmbeddingShards
from data_shards.errors import DataError
from data_shards.index import SampleIndex
from data_shards.manifest import SplitInfo
from trainer.embed import decode_batch, embed_images
from trainer.evaluation.counts import ClassCounts
from trainer.evaluation.readouts import predict, readouts
from trainer.models.network import Network, TaskOutput
from trainer.sections import EvaluationConfig, TaskConfig

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

    Returns:
        (task, read-out) -> counts. The keys are the same for any share, also an empty one. There
        are none for a network without a classifier before the first table.

    Raises:
        DataError: an image cannot be read.
    """
    counts: dict[tuple[str, str], ClassCounts] = {}
    for task in tasks:
        num_classes = network.num_classes[task.name]
        zero = np.zeros(num_classes, np.int64)
        names = readouts(tables.get(task.name), config, network, has_training=training is not None)
        for readout in names:
            counts[task.name, readout] = ClassCounts(zero, zero)
    if not counts:
        return counts
    for start, stop in batches:
        outputs = embed_images(network, _read_images(index, start, stop, network))
        for task in tasks:
            labels = index.labels(task.label)[start:stop]
            predictions = predict_task(
                network,
                outputs[task.name],
                task.name,
                table=tables.get(task.name),
                config=config,
                class_counts=class_counts[task.name],
                training=training[task.name] if training is not None else None,
            )
            for readout, predicted in predictions.items():
                num_classes = network.num_classes[task.name]
                counted = ClassCounts.of(predicted, labels, num_classes)
                counts[task.name, readout] = counts[task.name, readout] + counted
    return counts


def predict_task(  # noqa: PLR0913 - all that a read-out may look at
    network: Network,
    output: TaskOutput,
    task: str,
    *,
    table: ClusterTable | None,
    config: EvaluationConfig,
    class_counts: npt.NDArray[np.int64],
    training: EmbeddingShards | None = None,
) -> Mapping[str, npt.NDArray[np.int64]]:
    """Classify images by every read-out of one task.

    Args:
        network: that the output comes from.
        output: of the task, of N images.
        task: its name.
        table: its clusters; None leaves only the classifiers.
        config: settings of the read-outs.
        class_counts: (C,) training images of each class.
        training: embeddings of the training images, for the read-outs by the nearest of them.

    Returns:
        read-out -> (N,) predicted classes.
    """
    tau_logits = network.head(task).tau_logits(output, config.tau) if config.tau > 0 else None
    return predict(
        output,
        table,
        config,
        class_counts=class_counts,
        training=training,
        tau_logits=tau_logits,
    )


def _read_images(index: SampleIndex, start: int, stop: int, network: Network) -> np.ndarray:
    ids = index.ids[start:stop]
    try:
        return decode_batch((index.read(int(i)) for i in ids), network)
    except DataError as error:
        raise DataError(f"among samples {ids[0]} to {ids[-1]}: {error}; import again") from error
