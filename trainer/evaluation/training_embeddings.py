"""The embeddings of the training images, as the clustering service left them for a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from clustering.table.table import ClusterTable
from data_shards.errors import DataError
from data_shards.features.embeddings import EmbeddingShards
from trainer.config.sections import EvaluationConfig, TaskConfig
from trainer.evaluation.registry import neighbour_readouts
from trainer.run.folder import SNAPSHOT_CHECKSUM


def missing_embeddings(config: EvaluationConfig, step: int, folder: Path) -> str:
    """The warning when a folder has no usable `training_embeddings`."""
    return (
        f"no read-out {', '.join(neighbour_readouts(config))}: the embeddings of the training "
        f"images by the weights of step {step} are only kept for the newest table; make them with "
        f"`clmle embed --split train --snapshot {step} --out {folder}` and evaluate again"
    )


def training_embeddings(
    folder: Path, tasks: Sequence[TaskConfig], tables: Mapping[str, ClusterTable]
) -> dict[str, EmbeddingShards] | None:
    """Open the embeddings from which tables were made, as the clustering service left them.

    Args:
        folder: `RUN/embeddings/step_...`.
        tasks: of the run.
        tables: task -> the table of that step.

    Returns:
        task -> its embeddings; None if they were removed when a newer table came, or replaced.
    """
    try:
        opened = {task.name: EmbeddingShards.open(folder / task.name, False) for task in tasks}
    except DataError:
        return None
    weights = {task: table.stats.get(SNAPSHOT_CHECKSUM) for task, table in tables.items()}
    of_table = [shards.origin.split(":")[0] == weights.get(t) for t, shards in opened.items()]
    return opened if all(of_table) else None
