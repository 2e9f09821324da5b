"""A split of the data -> counts of right answers per class: work items, added up.

Legend: B batches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cluster_jobs.service.executor import Executor
from cluster_jobs.service.work_items import Counts, CountWork, count_right_answers
from clustering.table import store
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.config.sections import EvaluationConfig, TaskConfig
from trainer.config.tasks import resolve_tasks
from trainer.evaluation.evaluate import Batch, evaluation_batches
from trainer.evaluation.registry import neighbour_readouts
from trainer.evaluation.training_embeddings import missing_embeddings, training_embeddings
from trainer.run.folder import RunFolder, step_name
from trainer.state.served_snapshot import check_data, check_served
from trainer.state.snapshot import Snapshot


def count_works(
    config: RunConfig, manifest: Manifest, snapshot: Snapshot, *, most: int
) -> list[CountWork]:
    """The work items that evaluate as a run's configuration says, at most that many.

    Raises:
        UnusableSnapshot: its tables are not published.
        DataError: the snapshot is of other data, or there is no split of the name that the
            configuration says.
    """
    check_data(snapshot, manifest)
    run = RunFolder(config.run_path.absolute())
    check_served(run, snapshot)
    tasks = resolve_tasks(config, manifest)
    batches = evaluation_batches(
        manifest.split(config.evaluation.split), config.evaluation.batch_size
    )
    embeddings = None
    if neighbour_readouts(config.evaluation):
        embeddings = _embeddings(run, snapshot, tasks, config.evaluation)
    return [
        CountWork(
            snapshot=snapshot,
            shards=manifest.folder,
            split=config.evaluation.split,
            batches=group,
            tasks=tasks,
            tables=run.tables,
            embeddings=embeddings,
            config=config.evaluation,
        )
        for group in batch_groups(batches, most)
    ]


def count_split(
    works: Sequence[CountWork],
    executor: Executor,
    *,
    on_images: Callable[[int], None] = lambda images: None,
) -> Counts:
    """Add up the counts of all work items: exact, and the same for any number of them.

    Args:
        works: the items (`count_works`).
        executor: who classifies.
        on_images: called with the number of images of each item that is done.

    Raises:
        DataError: a damaged shard (named), or embeddings that were removed meanwhile.
        ClusterError: an item was lost or late too often.
    """
    total: Counts = {}
    for number, counts in executor.run(count_right_answers, works):
        total = {key: counts[key] + total[key] if total else counts[key] for key in counts}
        on_images(works[number].num_images)
    return total


def batch_groups(batches: Sequence[Batch], most: int) -> list[tuple[Batch, ...]]:
    """Cut B batches into at most that many groups of neighbours, none of them empty."""
    parts = np.array_split(np.arange(len(batches)), min(most, len(batches)))
    return [tuple(batches[i] for i in part) for part in parts]


def _embeddings(
    run: RunFolder, snapshot: Snapshot, tasks: Sequence[TaskConfig], config: EvaluationConfig
) -> Path | None:
    """Where the training images' embeddings by these weights are; None, with a warning, if gone."""
    folder = run.embeddings / step_name(snapshot.step)
    if training_embeddings(folder, tasks, store.load(run.tables, snapshot.step)) is not None:
        return folder
    sys.stderr.write(f"warning: {missing_embeddings(config, snapshot.step, folder)}\n")
    return None
