"""Embed a split with the weights of one snapshot, shard by shard on Ray.

    clmle embed --config digits --split test --out data/digits_vectors
    ray job submit --working-dir . -- python -m cluster_jobs.embed --config ... --out ...

The result is one folder per task, of float32 vectors with sample ids and labels (NumPy files).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from cluster_jobs.errors import JobError, run_job
from cluster_jobs.ray_cluster.executor import RayExecutor
from cluster_jobs.ray_cluster.local_ray import ray_session
from cluster_jobs.service.embedding import embed_split, embed_works
from cluster_jobs.service.work_items import EmbedWork
from data_shards.features.embeddings import EmbeddingShards
from data_shards.importing.long_tail import even_counts, thin
from data_shards.paths import path_option, path_or_name
from data_shards.progress import Progress
from data_shards.shards.manifest import Manifest
from trainer.config.command_line import config_parser, print_if_dry_run, resolved
from trainer.config.tasks import load_manifest
from trainer.run.folder import RunFolder
from trainer.state.metrics import write_projection
from trainer.state.served_snapshot import find_snapshot


def _project(work: EmbedWork, manifest: Manifest, run: RunFolder, wanted: int) -> None:
    """Put some embeddings of each task into the projector, evenly over the classes."""
    for task in work.tasks:
        written = EmbeddingShards.open(work.out / task.name)
        sizes = np.bincount(written.labels, minlength=manifest.num_classes(task.label))
        chosen = thin(written.labels, even_counts(sizes, wanted), np.random.default_rng(0))
        names = manifest.label_names[task.label]
        write_projection(
            run,
            f"{task.name}-{work.split}",
            work.snapshot.step,
            embeddings=written.rows(chosen),
            classes=[names[label] for label in written.labels[chosen]],
            ids=written.ids[chosen],
        )
    sys.stdout.write(f"tensorboard --logdir {run.tensorboard} shows them under Projector\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The job."""
    parser = config_parser("clmle embed", __doc__)
    parser.add_argument(
        "--split",
        default="test",
        help="split to embed: train, validation or test (default: test)",
    )
    parser.add_argument(
        "--snapshot",
        type=path_or_name,
        metavar="STEP|FOLDER",
        help="default: the run's newest",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=path_option,
        metavar="DIR",
        help="folder to write to; finished shards in it are kept",
    )
    parser.add_argument(
        "--projector",
        type=int,
        default=0,
        metavar="N",
        help="also show N of them, evenly over the classes, in TensorBoard's projector (which "
        "takes the first 100,000)",
    )
    options = parser.parse_args(argv)
    config, derived = resolved(options)
    if print_if_dry_run(options, config, derived):
        return 0
    if options.projector < 0:
        raise JobError(f"--projector must be >= 0, got {options.projector}")
    manifest = load_manifest(config, split=options.split)
    images = manifest.split(options.split).num_samples
    snapshot = find_snapshot(options.snapshot, RunFolder(config.run_path))
    works = embed_works(config, manifest, snapshot, split=options.split, out=options.out)
    with (
        ray_session(num_cpus=config.launch.ray_cpus, gpus=config.launch.embed_gpus > 0),
        Progress(images, label=f"embed {options.split}", unit="images") as progress,
    ):
        stats = embed_split(works, RayExecutor(config), on_shard=progress.update)
    sys.stdout.write(f"{stats.rows:,} embeddings of step {snapshot.step} in {options.out}\n")
    if options.projector:
        _project(works[0], manifest, RunFolder(config.run_path), options.projector)
    return 0


if __name__ == "__main__":
    sys.exit(run_job(main))
