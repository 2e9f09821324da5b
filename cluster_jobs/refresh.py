"""One refresh: the weights of a step -> embeddings -> clusters -> published tables."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster_jobs.embed import embed_split, embed_works
from cluster_jobs.pruning import prune
from cluster_jobs.workers import EmbedWork
from clustering import store
from clustering.coordinator import cluster_embeddings
from clustering.errors import ClusterError
from clustering.table import ClusterTable
from data_shards.manifest import Manifest
from data_shards.progress import Progress
from trainer.config import RunConfig
from trainer.run_folder import RunFolder, step_name
from trainer.sections import TaskConfig
from trainer.snapshot import Snapshot, snapshot_steps

logger = logging.getLogger(__name__)

SPLIT = "train"


@dataclasses.dataclass(frozen=True, order=True)
class Request:
    """A snapshot as it lies there: the wish for tables of its weights."""

    written_ns: int
    folder: Path


def newest_request(run: RunFolder) -> Request | None:
    """The snapshot written last, None before the first.

    Not the one of the highest step: a training that went on from a checkpoint writes lower ones
    than its earlier attempt had.
    """
    folders = [run.snapshots / step_name(step) for step in snapshot_steps(run)]
    return max((Request(_time_written(folder), folder) for folder in folders), default=None)


def _time_written(folder: Path) -> int:
    try:
        return (folder / "manifest.json").stat().st_mtime_ns
    except FileNotFoundError:  # just being replaced
        return 0


def is_served(run: RunFolder, snapshot: Snapshot) -> bool:
    """Whether the tables of exactly these weights are published."""
    try:
        stats = store.stats(run.tables, snapshot.step)
    except ClusterError:
        return False
    return all(entry.get("snapshot_checksum") == snapshot.checksum for entry in stats.values())


class Refresher:
    """Makes the tables of a run, on a connected Ray."""

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        *,
        cpus: int,
        on_phase: Callable[[str, int], None] = lambda phase, version: None,
    ) -> None:
        """Prepare.

        Args:
            config: the run.
            manifest: its shards.
            cpus: of the Ray cluster.
            on_phase: called with ("embedding" | "clustering" | "publishing", version).
        """
        self._config = config
        self._manifest = manifest
        self._run = RunFolder(config.run_path.absolute())
        self._cpus = cpus
        self._on_phase = on_phase

    def serve(self, snapshot: Snapshot) -> None:
        """Publish the tables of a snapshot; work that an earlier attempt finished is kept.

        Raises:
            JobError, DataError, ClusterError: it cannot be done; says why.
        """
        started = time.monotonic()
        version = snapshot.step
        previous = tables_before(version, self._run)
        out = self._run.embeddings / step_name(version)
        works = embed_works(self._config, self._manifest, snapshot, split=SPLIT, out=out)
        measured = self._embed(version, works)
        tables = {
            task.name: self._cluster(out / task.name, task, version, previous.get(task.name))
            for task in works[0].tasks
        }
        self._on_phase("publishing", version)
        measured["snapshot_checksum"] = snapshot.checksum
        measured["refresh_seconds"] = time.monotonic() - started
        tables = {
            task: dataclasses.replace(table, stats={**table.stats, **measured})
            for task, table in tables.items()
        }
        store.publish(self._run.tables, version, tables)
        logger.info("table %d published after %.1f s", version, measured["refresh_seconds"])
        prune(self._run, version)

    def _embed(self, version: int, works: Sequence[EmbedWork]) -> dict[str, float | str]:
        self._on_phase("embedding", version)
        images = self._manifest.split(SPLIT).num_samples

        def on_shard(rows: int) -> None:
            progress.update(rows)
            self._on_phase("embedding", version)

        with Progress(images, label=f"table {version}: embed", unit="images") as progress:
            stats = embed_split(
                works,
                self._config.cluster,
                cpus=self._cpus,
                gpus=self._config.launch.embed_gpus,
                on_shard=on_shard,
            )
        return {
            "embed_seconds": stats.seconds,
            "embed_images_per_second": stats.rows / stats.seconds,
            "embed_reused_shards": stats.reused_shards,
        }

    def _cluster(
        self, folder: Path, task: TaskConfig, version: int, previous: ClusterTable | None
    ) -> ClusterTable:
        self._on_phase("clustering", version)
        num_classes = self._manifest.num_classes(task.label)

        def on_classes(done: int, total: int) -> None:
            progress.update(done - progress.done)
            self._on_phase("clustering", version)

        label = f"table {version}: cluster {task.name}"
        with Progress(num_classes, label=label, unit="classes") as progress:
            return cluster_embeddings(
                folder,
                task=task.name,
                version=version,
                num_classes=num_classes,
                config=self._config.cluster,
                seed=self._config.run.seed,
                previous=previous,
                on_progress=on_classes,
            )


def tables_before(version: int, run: RunFolder) -> dict[str, ClusterTable]:
    """The tables whose numbering the next ones take up; none is no obstacle.

    Those just before in steps, not in time: a training that goes on from an older checkpoint gets
    the same tables as the first time.
    """
    before = [older for older in store.versions(run.tables) if older < version]
    try:
        return store.load(run.tables, before[-1]) if before else {}
    except ClusterError as error:
        logger.warning("the table before %d cannot be taken up: %s", version, error)
        return {}
