"""One refresh: the weights of a step -> embeddings -> clusters -> published tables."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cluster_jobs.service.embedding import EmbedStats, embed_split, embed_works
from cluster_jobs.service.executor import Executor
from cluster_jobs.service.pruning import BUNDLES, prune
from cluster_jobs.service.work_items import EmbedWork
from clustering.coordinator import cluster_embeddings
from clustering.errors import ClusterError
from clustering.execution.bundle_store import BundleStore, KeptWorkers
from clustering.table import store
from clustering.table.table import ClusterTable
from data_shards.atomic import sha256_of
from data_shards.features.embeddings import MANIFEST_NAME as EMBEDDINGS_MANIFEST
from data_shards.progress import Progress
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.config.sections import TaskConfig
from trainer.run.folder import RunFolder, step_name
from trainer.state.served_snapshot import identity
from trainer.state.snapshot import Snapshot

logger = logging.getLogger(__name__)

SPLIT = "train"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What a refresh cost."""

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
    """Makes the tables of a run; the same ones wherever the work is done."""

    def __init__(
        self,
        config: RunConfig,
        manifest: Manifest,
        executor: Executor,
        *,
        on_phase: Callable[[str, int], None] = lambda phase, version: None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare.

        Args:
            config: the run.
            manifest: its shards.
            executor: who embeds and clusters.
            on_phase: called with ("embedding" | "clustering" | "publishing", version) as it begins.
            on_progress: called whenever a part of the work has ended well, here or at a worker,
                from several threads.
        """
        self._config = config
        self._manifest = manifest
        self._run = RunFolder(config.run_path.absolute())
        self._executor = executor
        self._on_phase = on_phase
        self._on_progress = on_progress

    def serve(self, snapshot: Snapshot) -> Measured:
        """Publish the tables of a snapshot; work that an earlier attempt finished is kept.

        Raises:
            JobError, DataError, ClusterError: it cannot be done; the message says why.
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
        recorded: dict[str, float | str] = {
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
                task: dataclasses.replace(table, stats={**table.stats, **recorded})
                for task, table in tables.items()
            },
            self._on_progress,
        )
        publish_seconds = time.monotonic() - started
        prune(self._run, version, self._on_progress)
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
            return embed_split(works, self._executor, on_shard=on_shard)

    def _cluster_tasks(
        self,
        out: Path,
        tasks: Sequence[TaskConfig],
        version: int,
        previous: Mapping[str, ClusterTable],
    ) -> tuple[dict[str, ClusterTable], list[KeptWorkers]]:
        """The tables of all tasks, and the workers that made each."""
        self._on_phase("clustering", version)
        tables, kept = {}, []
        workers = self._executor.workers(
            [self._manifest.class_counts(SPLIT, task.label) for task in tasks],
            on_call=self._on_progress,
        )
        for task in tasks:
            folder = out / task.name
            embeddings = sha256_of(folder / EMBEDDINGS_MANIFEST)
            bundles = BundleStore(
                folder / BUNDLES, embeddings=embeddings, on_step=self._on_progress
            )
            kept.append(KeptWorkers(workers, bundles))
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
                on_step=self._on_progress,
                workers=workers,
            )


def tables_before(version: int, run: RunFolder) -> dict[str, ClusterTable]:
    """The tables whose numbering the next ones continue; empty if there are none.

    Those just before in steps, not in time: a training run that resumes from an older checkpoint
    gets the same tables as the first time.
    """
    before = [older for older in store.versions(run.tables) if older < version]
    try:
        return store.load(run.tables, before[-1]) if before else {}
    except ClusterError as error:
        logger.warning("the table before %d cannot be continued: %s", version, error)
        return {}
