"""Embed a split with the weights of one snapshot, one Ray task per shard.

    clmle embed --config configs/digits.yaml --split test --out data/digits_vectors
    ray job submit --working-dir . -- python -m cluster_jobs.embed --config ... --out ...

The result is a folder a task of float32 vectors with sample ids and labels (NumPy files).
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster_jobs.errors import JobError, run_job
from cluster_jobs.ray_cluster.local_ray import ray_session
from cluster_jobs.ray_cluster.workers import EmbeddedShard, EmbedWork, embed_one_shard
from cluster_jobs.service.snapshots import check_data, find_snapshot
from clustering.config import ClusterConfig
from clustering.execution.ray_calls import run_calls
from data_shards.features.embeddings import (
    EmbeddingShardInfo,
    EmbeddingShards,
    begin_embeddings,
    finish_embeddings,
)
from data_shards.importing.long_tail import even_counts, thin
from data_shards.progress import Progress
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.config.tasks import load_manifest, resolve_tasks
from trainer.config.yaml_file import config_parser, resolved
from trainer.run.folder import RunFolder
from trainer.state.metrics import write_projection
from trainer.state.snapshot import Snapshot

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EmbedStats:
    """What an embedding of a split took."""

    rows: int
    seconds: float
    reused_shards: int
    bytes_read: int
    """Of image shards; reused ones are not read."""


def embed_split(
    works: Sequence[EmbedWork],
    config: ClusterConfig,
    *,
    cpus: int = 0,
    gpus: float = 0.0,
    on_shard: Callable[[int], None] = lambda rows: None,
) -> EmbedStats:
    """Embed the shards of a split on a connected Ray; finished ones are kept.

    Args:
        works: those of all shards, in order (`embed_works`).
        config: patience with tasks.
        cpus: as many tasks are under way; 0 = all CPUs that the cluster has now.
        gpus: share of a GPU that a task asks for, if the cluster has any.
        on_shard: called with the number of images of each shard that is done.

    Raises:
        DataError: a damaged shard (named).
        ClusterError: a shard's task was lost or late too often.
        JobError: the workers write to another file system than this one.
    """
    started = time.monotonic()
    done: dict[int, EmbeddedShard] = {}
    for task in works[0].tasks:
        begin_embeddings(works[0].out / task.name, works[0].origin)
    at_once, gpus = task_resources(cpus, gpus)
    for number, shard in run_calls(
        embed_one_shard, works, num_at_once=at_once, config=config, num_gpus=gpus
    ):
        done[number] = shard
        on_shard(_num_rows(shard))
    for task in works[0].tasks:
        infos = [done[number].infos[task.name] for number in range(len(works))]
        _check_visible(works[0].out / task.name, infos)
        finish_embeddings(works[0].out / task.name, infos, works[0].origin)
    return EmbedStats(
        rows=sum(map(_num_rows, done.values())),
        seconds=time.monotonic() - started,
        reused_shards=sum(shard.reused for shard in done.values()),
        bytes_read=sum(shard.bytes_read for shard in done.values()),
    )


def task_resources(cpus: int, gpus: float) -> tuple[int, float]:
    """How many tasks fit the connected Ray at a time, and the share of a GPU that each can have.

    Args:
        cpus: for them, one each; 0 = all that the cluster has now.
        gpus: wanted share, in [0, 1].
    """
    import ray

    resources = ray.cluster_resources()
    cpus = cpus or max(1, int(resources.get("CPU", 0)))
    there = float(resources.get("GPU", 0.0)) if gpus else 0.0
    if gpus and not there:
        logger.warning("launch.embed_gpus is %g, but the Ray cluster has no GPU: using CPUs", gpus)
    if not there:
        return cpus, 0.0
    # A task stays on one GPU.
    return max(1, min(cpus, int(there) * int(1 / gpus))), gpus


def _num_rows(shard: EmbeddedShard) -> int:
    return next(iter(shard.infos.values())).num_rows


def embed_works(
    config: RunConfig, manifest: Manifest, snapshot: Snapshot, *, split: str, out: Path
) -> list[EmbedWork]:
    """What a run's configuration asks of an embedding, a piece of work a shard.

    Raises:
        JobError: the shards are not those that the snapshot was trained on.
        DataError: there is no such split.
        ConfigError: a task has no label column there.
    """
    check_data(snapshot, manifest)
    tasks = resolve_tasks(config, manifest)
    return [
        EmbedWork(
            snapshot=snapshot,
            shards=manifest.folder,
            split=split,
            number=number,
            batch_size=config.evaluation.batch_size,
            tasks=tasks,
            out=out.absolute(),
        )
        for number in range(len(manifest.split(split).shards))
    ]


def _check_visible(folder: Path, infos: Sequence[EmbeddingShardInfo]) -> None:
    for info in infos:
        if not (folder / f"{info.name}.npy").exists():
            raise JobError(
                f"{folder / info.name}.npy was written by a worker but is not here; all nodes of "
                "the Ray cluster and this one must share the file system of the run's folder"
            )


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
    parser.add_argument("--snapshot", metavar="STEP|FOLDER", help="default: the run's newest")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder to write to; shards that are finished there are kept",
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
    found = resolved(options)
    if found is None:
        return 0
    config, _ = found
    if options.projector < 0:
        raise JobError(f"--projector must be >= 0, got {options.projector}")
    manifest = load_manifest(config)
    images = manifest.split(options.split).num_samples
    snapshot = find_snapshot(options.snapshot, RunFolder(config.run_path))
    works = embed_works(config, manifest, snapshot, split=options.split, out=options.out)
    gpus = config.launch.embed_gpus
    with (
        ray_session(num_cpus=config.launch.ray_cpus, gpus=gpus > 0),
        Progress(images, label=f"embed {options.split}", unit="images") as progress,
    ):
        stats = embed_split(works, config.cluster, gpus=gpus, on_shard=progress.update)
    sys.stdout.write(f"{stats.rows:,} embeddings of step {snapshot.step} in {options.out}\n")
    if options.projector:
        _project(works[0], manifest, RunFolder(config.run_path), options.projector)
    return 0


if __name__ == "__main__":
    sys.exit(run_job(main))
