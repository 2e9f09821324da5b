"""Exact evaluation of a run, spread over Ray: counts are added up, nothing is gathered or padded.

    clmle evaluate --config digits
    ray job submit --working-dir . -- python -m cluster_jobs.evaluate --config ... --checkpoint 400

Prints a table, writes RUN/evaluation/step_N.json and TensorBoard; evaluation.split chooses the
images. The numbers are those of the trainer's own evaluation, for any number of workers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from cluster_jobs.comparison import evaluation_table
from cluster_jobs.errors import run_job
from cluster_jobs.ray_cluster.executor import RayExecutor
from cluster_jobs.ray_cluster.local_ray import ray_session
from cluster_jobs.service.checkpoint_option import add_checkpoint_option
from cluster_jobs.service.counting import count_split, count_works
from data_shards.progress import Progress
from trainer.config.command_line import config_parser, print_if_dry_run, resolved
from trainer.config.tasks import load_manifest, resolve_tasks
from trainer.evaluation.report import as_metrics, class_lists, summarise, write_evaluation
from trainer.run.folder import RunFolder
from trainer.state.metrics import MetricWriter
from trainer.state.served_snapshot import served_snapshot

_ITEMS_PER_CPU = 4  # evens out slow workers
_IMAGES_PER_ITEM = 2000  # at most: so that it ends within the time of a call, as a shard does


def num_items(images: int, cpus: int) -> int:
    """Work items that classify so many images on so many CPUs."""
    return max(_ITEMS_PER_CPU * cpus, math.ceil(images / _IMAGES_PER_ITEM))


def main(argv: Sequence[str] | None = None) -> int:
    """The job."""
    parser = config_parser("clmle evaluate", __doc__)
    add_checkpoint_option(parser)
    options = parser.parse_args(argv)
    config, derived = resolved(options)
    if print_if_dry_run(options, config, derived):
        return 0
    split = config.evaluation.split
    manifest = load_manifest(config, split=split)
    run = RunFolder(config.run_path)
    snapshot = served_snapshot(options.checkpoint, run)
    images = manifest.split(split).num_samples
    with (
        ray_session(num_cpus=config.launch.ray_cpus, gpus=config.launch.embed_gpus > 0) as cpus,
        Progress(images, label=f"evaluate step {snapshot.step}", unit="images") as progress,
    ):
        works = count_works(config, manifest, snapshot, most=num_items(images, cpus))
        executor = RayExecutor(config, cpus=cpus)
        counts = count_split(works, executor, on_images=progress.update)
    summary = summarise(
        counts,
        step=snapshot.step,
        table_version=snapshot.step,
        classes=class_lists(resolve_tasks(config, manifest), manifest, split),
        split=split,
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
