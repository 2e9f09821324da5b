"""Exact evaluation of a run, spread over Ray: counts are added up, nothing is gathered or padded.

    clmle evaluate --config configs/digits.yaml
    ray job submit --working-dir . -- python -m cluster_jobs.evaluate --config ... --checkpoint 400

Prints a table, writes RUN/evaluation/step_N.json and TensorBoard; evaluation.split chooses the
images. The numbers are those of the trainer's own evaluation, for any number of workers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cluster_jobs.comparison import evaluation_table
from cluster_jobs.embed import task_resources
from cluster_jobs.errors import run_job
from cluster_jobs.ray_cluster.local_ray import ray_session
from cluster_jobs.ray_cluster.workers import Counts, CountWork, count_right_answers
from cluster_jobs.service.snapshots import (
    add_checkpoint_option,
    check_data,
    check_served,
    served_snapshot,
)
from clustering.config import ClusterConfig
from clustering.execution.ray_calls import run_calls
from clustering.table import store
from data_shards.progress import Progress
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.config.sections import EvaluationConfig, TaskConfig
from trainer.config.tasks import load_manifest, resolve_tasks
from trainer.config.yaml_file import config_parser, resolved
from trainer.evaluation.evaluate import Batch, evaluation_batches
from trainer.evaluation.knn import (
    missing_embeddings,
    neighbour_readouts,
    training_embeddings,
)
from trainer.evaluation.report import as_metrics, summarise, write_evaluation
from trainer.run.folder import RunFolder, step_name
from trainer.state.metrics import MetricWriter
from trainer.state.snapshot import Snapshot

_SHARES_PER_CPU = 4  # evens out slow workers


def count_split(
    works: Sequence[CountWork],
    config: ClusterConfig,
    *,
    cpus: int,
    gpus: float = 0.0,
    on_images: Callable[[int], None] = lambda images: None,
) -> Counts:
    """Add up the counts of all shares, on a connected Ray.

    Args:
        works: the shares (`count_works`).
        config: patience with tasks.
        cpus: of the cluster; as many tasks are under way.
        gpus: share of a GPU that a task asks for, if the cluster has any.
        on_images: called with the number of images of each share that is done.
    """
    total: Counts = {}
    at_once, gpus = task_resources(cpus, gpus)
    for number, counts in run_calls(
        count_right_answers, works, num_at_once=at_once, config=config, num_gpus=gpus
    ):
        total = {key: counts[key] + total[key] if total else counts[key] for key in counts}
        on_images(works[number].num_images)
    return total


def count_works(
    config: RunConfig, manifest: Manifest, snapshot: Snapshot, *, most: int
) -> list[CountWork]:
    """What a run's configuration asks of an evaluation, in at most that many shares.

    Raises:
        JobError: the snapshot is of other data, or its tables are not published.
        DataError: there is no split of the name that the configuration says.
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
            batches=share,
            tasks=tasks,
            tables=run.tables,
            embeddings=embeddings,
            config=config.evaluation,
        )
        for share in shares(batches, most)
    ]


def _embeddings(
    run: RunFolder, snapshot: Snapshot, tasks: Sequence[TaskConfig], config: EvaluationConfig
) -> Path | None:
    """Where the training images' embeddings by these weights are; None, with a warning, if gone."""
    folder = run.embeddings / step_name(snapshot.step)
    if training_embeddings(folder, tasks, store.load(run.tables, snapshot.step)) is not None:
        return folder
    sys.stderr.write(f"warning: {missing_embeddings(config, snapshot.step, folder)}\n")
    return None


def shares(batches: Sequence[Batch], most: int) -> list[tuple[Batch, ...]]:
    """Divide batches into at most that many runs of neighbours, none of them empty."""
    parts = np.array_split(np.arange(len(batches)), min(most, len(batches)))
    return [tuple(batches[i] for i in part) for part in parts]


def main(argv: Sequence[str] | None = None) -> int:
    """The job."""
    parser = config_parser("clmle evaluate", __doc__)
    add_checkpoint_option(parser)
    options = parser.parse_args(argv)
    found = resolved(options)
    if found is None:
        return 0
    config, _ = found
    manifest = load_manifest(config)
    run = RunFolder(config.run_path)
    snapshot = served_snapshot(options.checkpoint, run)
    images = manifest.split(config.evaluation.split).num_samples
    gpus = config.launch.embed_gpus
    with (
        ray_session(num_cpus=config.launch.ray_cpus, gpus=gpus > 0) as cpus,
        Progress(images, label=f"evaluate step {snapshot.step}", unit="images") as progress,
    ):
        works = count_works(config, manifest, snapshot, most=_SHARES_PER_CPU * cpus)
        counts = count_split(works, config.cluster, cpus=cpus, gpus=gpus, on_images=progress.update)
    summary = summarise(
        counts, step=snapshot.step, table_version=snapshot.step, split=config.evaluation.split
    )
    path = write_evaluation(run, summary)
    writer = MetricWriter(run)
    writer.write(snapshot.step, as_metrics(summary))
    writer.close()
    sys.stdout.write(evaluation_table(summary, manifest, config))
    sys.stdout.write(f"\n{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_job(main))
