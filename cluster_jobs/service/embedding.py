"""A split of the data -> embeddings by the weights of one snapshot, one work item per shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster_jobs.errors import JobError
from cluster_jobs.service.executor import Executor
from cluster_jobs.service.work_items import EmbeddedShard, EmbedWork, embed_one_shard
from data_shards.features.embedding_shard import EmbeddingShardInfo
from data_shards.features.embeddings import begin_embeddings, finish_embeddings
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.config.tasks import resolve_tasks
from trainer.state.served_snapshot import check_data
from trainer.state.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class EmbedStats:
    """What it took to embed a split."""

    rows: int
    """Embeddings of one task."""
    seconds: float
    reused_shards: int
    """Finished by an earlier attempt."""
    bytes_read: int
    """Of image shards; reused ones are not read."""


def embed_works(
    config: RunConfig, manifest: Manifest, snapshot: Snapshot, *, split: str, out: Path
) -> list[EmbedWork]:
    """The work items that embed a split as a run's configuration says, one per shard.

    Raises:
        DataError: the shards are not those that the snapshot was trained on, or there is no such
            split.
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


def embed_split(
    works: Sequence[EmbedWork],
    executor: Executor,
    *,
    on_shard: Callable[[int], None] = lambda rows: None,
) -> EmbedStats:
    """Embed the shards of a split; finished ones are kept.

    Args:
        works: one item per shard, in order (`embed_works`).
        executor: who embeds.
        on_shard: called with the number of images of each shard that is done.

    Raises:
        DataError: a damaged shard (named).
        ClusterError: an item was lost or late too often.
        JobError: the workers write to another file system than this one.
    """
    started = time.monotonic()
    done: dict[int, EmbeddedShard] = {}
    for task in works[0].tasks:
        begin_embeddings(works[0].out / task.name, works[0].origin)
    for number, shard in executor.run(embed_one_shard, works):
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


def _num_rows(shard: EmbeddedShard) -> int:
    return next(iter(shard.infos.values())).num_rows


def _check_visible(folder: Path, infos: Sequence[EmbeddingShardInfo]) -> None:
    for info in infos:
        if not (folder / f"{info.name}.npy").exists():
            raise JobError(
                f"{folder / info.name}.npy was written by a worker but is not here; all nodes of "
                "the Ray cluster and this one must share the file system of the run's folder"
            )
