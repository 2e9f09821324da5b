"""One refresh: the weights of a step -> embeddings -> clusters -> published tables."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cluster_jobs.embed import EmbedStats, embed_split, embed_works
from cluster_jobs.ray_cluster.workers import EmbedWork
from cluster_jobs.service.pruning import BUNDLES, prune
from cluster_jobs.service.table_requests import identity
from clustering.coordinator import cluster_embeddings
from clustering.errors import ClusterError
from clustering.execution.bundle_store import BundleStore, KeptWorkers
from clustering.execution.ray_workers import RayWorkers
from clustering.table import store
from clustering.table.table import ClusterTable
from data_shards.atomic import sha256_of
from data_shards.features.embeddings import MANIFEST_NAME as EMBEDDINGS_MANIFEST
from data_shards.progress import Progress
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.config.sections import TaskConfig
from trainer.run.folder import RunFolder, step_name
from trainer.state.snapshot import Snapshot

logger = logging.getLogger(__name__)

SPLIT = "train"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What a refresh took."""

    rows: int
    """Embeddings, of one task."""
    num_tasks: int
    embed_seconds: float
    cluster_seconds: float
    publish_seconds: float
    bytes_read: int
    """Of image shards that were embedded, and of embeddings that were clustered."""
    bytes_moved: int
    """Between the service and the workers that clustered."""
    reused_shards: int
    """Embedded by an earlier attempt."""
    reused_classes: int
    """Clustered by an earlier attempt."""

    @property
    def seconds(self) -> float:
        """From the snapshot to the tables."""
        return self.embed_seconds + self.cluster_seconds + self.publish_seconds


class Refresher:
    """Makes the tables of a run, on a connected Ray."""

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        *,
        cpus: int = 0,
        on_phase: Callable[[str, int], None] = lambda phase, version: None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare.

        Args:
            config: the run.
            manifest: its shards.
            cpus: that embedding uses; 0 = all that the Ray cluster has when a refresh begins.
            on_phase: called with ("embedding" | "clustering" | "publishing", version) as it begins.
            on_progress: called whenever a task has ended well, from several threads.
        """
        self._config = config
        self._manifest = manifest
        self._run = RunFolder(config.run_path.absolute())
        self._cpus = cpus
        self._on_phase = on_phase
        self._on_progress = on_progress

    def serve(self, snapshot: Snapshot) -> Measured:
        """Publish the tables of a snapshot; work that an earlier attempt finished is kept.

        Raises:
            JobError, DataError, ClusterError: it cannot be done; says why.
        """
        version = snapshot.step
        previous = tables_before(version, self._run)
        out = self._run.embeddings / step_name(version)
        works = embed_works(self._config, self._manifest, snapshot, split=SPLIT, out=out)
        embedded = self._embed(version, works)
        started = time.monotonic()
        tables, kept = self._cluster_tasks(out, works[0].tasks, version, previous)
        cluster_seconds = time.monotonic() - started
        self._on_phase("publishing", version)
        noted: dict[str, float | str] = {
            **identity(snapshot),
            "embed_seconds": embedded.seconds,
            "embed_images_per_second": embedded.rows / embedded.seconds,
            "embed_reused_shards": embedded.reused_shards,
            "embed_and_cluster_seconds": embedded.seconds + cluster_seconds,
        }
        started = time.monotonic()
        store.publish(
            self._run.tables,
            version,
            {
                task: dataclasses.replace(table, stats={**table.stats, **noted})
                for task, table in tables.items()
            },
        )
        publish_seconds = time.monotonic() - started
        prune(self._run, version)
        measured = Measured(
            rows=embedded.rows,
            num_tasks=len(tables),
            embed_seconds=embedded.seconds,
            cluster_seconds=cluster_seconds,
            publish_seconds=publish_seconds,
            bytes_read=embedded.bytes_read
            + sum(4 * embedded.rows * table.dim for table in tables.values()),
            bytes_moved=sum(workers.moved_bytes for workers in kept),
            reused_shards=embedded.reused_shards,
            reused_classes=sum(workers.reused_classes for workers in kept),
        )
        logger.info(
            "table %d published after %.1f s (%d shards and %d classes of an earlier attempt)",
            *(version, measured.seconds, measured.reused_shards, measured.reused_classes),
        )
        return measured

    def _embed(self, version: int, works: Sequence[EmbedWork]) -> EmbedStats:
        self._on_phase("embedding", version)
        images = self._manifest.split(SPLIT).num_samples

        def on_shard(rows: int) -> None:
            progress.update(rows)
            self._on_progress()

        with Progress(images, label=f"table {version}: embed", unit="images") as progress:
            return embed_split(
                works,
                self._config.cluster,
                cpus=self._cpus,
                gpus=self._config.launch.embed_gpus,
                on_shard=on_shard,
            )

    def _cluster_tasks(
        self,
        out: Path,
        tasks: Sequence[TaskConfig],
        version: int,
        previous: Mapping[str, ClusterTable],
    ) -> tuple[dict[str, ClusterTable], list[KeptWorkers]]:
        """The tables of all tasks, and who made them."""
        self._on_phase("clustering", version)
        tables, kept = {}, []
        workers = RayWorkers(
            self._config.cluster,
            class_sizes=[self._manifest.class_counts(SPLIT, task.label) for task in tasks],
            on_call=self._on_progress,
        )
        for task in tasks:
            folder = out / task.name
            embeddings = sha256_of(folder / EMBEDDINGS_MANIFEST)
            kept.append(KeptWorkers(workers, BundleStore(folder / BUNDLES, embeddings=embeddings)))
            tables[task.name] = self._cluster(
                folder, task, version, previous.get(task.name), kept[-1]
            )
        return tables, kept

    def _cluster(
        self,
        folder: Path,
        task: TaskConfig,
        version: int,
        previous: ClusterTable | None,
        workers: KeptWorkers,
    ) -> ClusterTable:
        num_classes = self._manifest.num_classes(task.label)

        def on_classes(done: int, total: int) -> None:
            progress.update(done - progress.done)

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
                workers=workers,
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
