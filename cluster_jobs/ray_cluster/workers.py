"""What runs on Ray's workers: the network over one shard, or over some batches of the test split.

Each process keeps the last network, shards and tables that it used; a task names them by checksum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from clustering.table import store
from clustering.table.table import ClusterTable
from data_shards.errors import DataError
from data_shards.features.embedding_shard import (
    EmbeddingShardInfo,
    finished_shard,
    write_embedding_shard,
)
from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import Manifest
from trainer.config.sections import EvaluationConfig, TaskConfig
from trainer.evaluation.counts import ClassCounts
from trainer.evaluation.evaluate import Batch, count_batches
from trainer.evaluation.knn import training_embeddings
from trainer.models.embed import ShardEmbeddings, embed_shard
from trainer.models.network import Network
from trainer.state.snapshot import Snapshot, load_network, read_snapshot

Counts = dict[tuple[str, str], ClassCounts]
"""(task, read-out) -> counts."""


@dataclass(frozen=True, kw_only=True)
class EmbedWork:
    """Embedding one shard with the weights of one snapshot."""

    snapshot: Snapshot
    shards: Path
    split: str
    number: int
    """Of the shard in the split."""
    batch_size: int
    tasks: tuple[TaskConfig, ...]
    out: Path
    """Each task's embeddings go to a folder of its name in here."""

    @property
    def origin(self) -> str:
        """What decides the files: weights (first), data, split, batches, each task's labels."""
        snapshot = self.snapshot
        labels = (f"{task.name}={task.label}" for task in self.tasks)
        parts = (snapshot.checksum, snapshot.data_checksum, self.split, self.batch_size, *labels)
        return ":".join(map(str, parts))

    def __str__(self) -> str:
        return f"embedding shard {self.number} of {self.split}"


@dataclass(frozen=True)
class EmbeddedShard:
    """One image shard, embedded."""

    infos: Mapping[str, EmbeddingShardInfo]
    """By task."""
    reused: bool
    """An earlier attempt had left it finished."""
    bytes_read: int
    """Of the image shard."""


def embed_one_shard(work: EmbedWork) -> EmbeddedShard:
    """Embed one shard for all tasks into files, unless they are there.

    Raises:
        DataError: the shard is damaged, an embedding is not finite, or it cannot be written.
    """
    torch.set_num_threads(1)
    manifest = _manifest(work.shards, work.snapshot.data_checksum)
    shard = manifest.split(work.split).shards[work.number]
    finished = {
        task.name: finished_shard(work.out / task.name, shard.name, work.origin)
        for task in work.tasks
    }
    infos = {task: info for task, info in finished.items() if info is not None}
    if len(infos) == len(work.tasks):
        return EmbeddedShard(infos, reused=True, bytes_read=0)
    embedded = embed_shard(
        _network(work.snapshot.path, work.snapshot.checksum, _device()),
        manifest,
        work.number,
        split=work.split,
        batch_size=work.batch_size,
        labels={task.name: task.label for task in work.tasks},
    )
    _give_back_memory()
    return EmbeddedShard(
        _written(work, shard.name, embedded), reused=False, bytes_read=shard.num_bytes
    )


def _written(
    work: EmbedWork, name: str, embedded: Mapping[str, ShardEmbeddings]
) -> dict[str, EmbeddingShardInfo]:
    try:
        return {
            task: write_embedding_shard(
                work.out / task,
                name,
                embeddings=rows.embeddings,
                ids=rows.ids,
                labels=rows.labels,
                origin=work.origin,
            )
            for task, rows in embedded.items()
        }
    except OSError as error:
        # Of the worker's file system, which the driver's message would not name.
        raise DataError(
            f"cannot write the embeddings of shard {name} to {work.out}: {error.strerror}; make "
            "room or mend the file system, then start the job again: finished shards are kept"
        ) from error


@dataclass(frozen=True, kw_only=True)
class CountWork:
    """Classifying some test batches with a snapshot's weights and the tables of its step."""

    snapshot: Snapshot
    shards: Path
    split: str
    batches: tuple[Batch, ...]
    tasks: tuple[TaskConfig, ...]
    tables: Path
    """The store; the version is the snapshot's step."""
    embeddings: Path | None
    """Of the training images, by these weights, for the read-outs by the nearest of them; None =
    without these."""
    config: EvaluationConfig

    @property
    def num_images(self) -> int:
        """Images of its batches."""
        return sum(stop - start for start, stop in self.batches)

    def __str__(self) -> str:
        return f"evaluating images {self.batches[0][0]} to {self.batches[-1][1]} of {self.split}"


def count_right_answers(work: CountWork) -> Counts:
    """Classify its batches and count, by (task, read-out)."""
    torch.set_num_threads(1)
    tables = _tables(work.tables, work.snapshot.step, work.snapshot.checksum)
    training = None
    if work.embeddings is not None:
        training = training_embeddings(work.embeddings, work.tasks, tables)
        if training is None:
            raise DataError(f"{work.embeddings} was removed or replaced while in use; try again")
    manifest = _manifest(work.shards, work.snapshot.data_checksum)
    counts = count_batches(
        _network(work.snapshot.path, work.snapshot.checksum, _device()),
        _index(work.shards, work.snapshot.data_checksum, work.split),
        work.batches,
        tasks=work.tasks,
        tables=tables,
        config=work.config,
        class_counts={t.name: manifest.class_counts("train", t.label) for t in work.tasks},
        training=training,
    )
    _give_back_memory()
    return counts


def _give_back_memory() -> None:
    """What torch keeps of a GPU for the next task, which may go to another of Ray's processes."""
    torch.cuda.empty_cache()  # does nothing without a GPU


def _device() -> str:
    """Where this task's network goes: the GPU that Ray gave it, if it asked for one."""
    import ray

    return "cuda" if ray.is_initialized() and ray.get_gpu_ids() else "cpu"


@lru_cache(maxsize=1)
def _network(path: Path, checksum: str, device: str) -> Network:
    snapshot = read_snapshot(path)
    if snapshot.checksum != checksum:
        raise DataError(f"the weights in {path} were replaced while they were in use; try again")
    return load_network(snapshot).to(device)


@lru_cache(maxsize=1)
def _manifest(folder: Path, checksum: str) -> Manifest:
    manifest = Manifest.load(folder)
    if manifest.checksum != checksum:
        raise DataError(
            f"the shards in {folder} are not those that the run trains on; set data.shards back, "
            "or start a new run folder"
        )
    return manifest


@lru_cache(maxsize=1)
def _index(folder: Path, checksum: str, split: str) -> SampleIndex:
    return SampleIndex(_manifest(folder, checksum), split)


@lru_cache(maxsize=1)
def _tables(folder: Path, version: int, checksum: str) -> dict[str, ClusterTable]:
    tables = store.load(folder, version)
    if any(table.stats.get("snapshot_checksum") != checksum for table in tables.values()):
        raise DataError(f"table {version} in {folder} was replaced while in use; try again")
    return tables
