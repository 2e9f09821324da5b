"""Work items that any process can do: embed one shard, or classify some batches of the test split.

A process keeps the network, shards and tables that it used last; items name them by checksum.
Items are sent to Ray's workers, so they hold paths and settings, never arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from clustering.table import store
from clustering.table.table import ClusterTable
from data_shards.disk import write_error, writing
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
from trainer.evaluation.training_embeddings import training_embeddings
from trainer.models.embed import ShardEmbeddings, embed_shard
from trainer.models.network import Network
from trainer.run.folder import SNAPSHOT_CHECKSUM
from trainer.state.snapshot import (
    Snapshot,
    describe_snapshot,
    load_network,
    read_snapshot,
)

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
    """Folder with one folder of embeddings per task."""

    @property
    def origin(self) -> str:
        """All that determines the files: weights (first), data, split, batches, label columns."""
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
    """Embed one shard for all tasks into files; finished ones are kept.

    Raises:
        DataError: the shard is damaged, or an embedding is not finite.
        DiskError: the embeddings cannot be written.
    """
    torch.set_num_threads(1)
    manifest = _manifest(work.shards, work.snapshot.data_checksum, work.split)
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
    _free_gpu_memory()
    return EmbeddedShard(
        _written(work, shard.name, embedded), reused=False, bytes_read=shard.num_bytes
    )


def _written(
    work: EmbedWork, name: str, embedded: Mapping[str, ShardEmbeddings]
) -> dict[str, EmbeddingShardInfo]:
    what = f"the embeddings of shard {name} to"
    try:
        with writing(work.out, what):
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
    except OSError as error:  # not as a failure of the worker
        raise write_error(error, work.out, what) from error


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
    """Of the training images, by these weights, for the read-outs by nearest images; None leaves
    those read-outs out."""
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
    manifest = _manifest(work.shards, work.snapshot.data_checksum, work.split)
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
    _free_gpu_memory()
    return counts


def _free_gpu_memory() -> None:
    """Free what torch keeps of a GPU: Ray may send the next item to another of its processes."""
    torch.cuda.empty_cache()  # does nothing without a GPU


def _device() -> str:
    """Where the network goes: the GPU that Ray gave this call, if it asked for one."""
    ray = sys.modules.get("ray")  # a process that never imported it is none of Ray's workers
    return "cuda" if ray is not None and ray.is_initialized() and ray.get_gpu_ids() else "cpu"


@lru_cache(maxsize=1)
def _network(path: Path, checksum: str, device: str) -> Network:
    snapshot = read_snapshot(path)
    if snapshot.checksum != checksum:
        raise _replaced(path)
    network = load_network(snapshot).to(device)
    if describe_snapshot(path).checksum != checksum:
        raise _replaced(path)
    return network


def _replaced(path: Path) -> DataError:
    return DataError(f"the weights in {path} were replaced while they were in use; try again")


@lru_cache(maxsize=1)
def _manifest(folder: Path, checksum: str, split: str) -> Manifest:
    manifest = Manifest.load(folder, split=split)
    if manifest.checksum != checksum:
        raise DataError(
            f"the shards in {folder} are not those that the run trains on; set data.shards back, "
            "or start a new run folder"
        )
    return manifest


@lru_cache(maxsize=1)
def _index(folder: Path, checksum: str, split: str) -> SampleIndex:
    return SampleIndex(_manifest(folder, checksum, split), split)


@lru_cache(maxsize=1)
def _tables(folder: Path, version: int, checksum: str) -> dict[str, ClusterTable]:
    tables = store.load(folder, version)
    if any(table.stats.get(SNAPSHOT_CHECKSUM) != checksum for table in tables.values()):
        raise DataError(f"table {version} in {folder} was replaced while in use; try again")
    return tables
