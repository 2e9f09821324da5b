"""The clustering service of a run without Ray: a thread that really embeds and clusters."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from clustering.coordinator import cluster_locally
from clustering.errors import ClusterError
from clustering.table import store
from clustering.table.table import ClusterTable
from data_shards.features.embedding_shard import write_embedding_shard
from data_shards.features.embeddings import finish_embeddings
from data_shards.shards.manifest import Manifest
from trainer.config.errors import TrainingError
from trainer.config.run_config import RunConfig
from trainer.config.tasks import resolve_tasks
from trainer.models.embed import embed_shard
from trainer.run.folder import RunFolder, step_name
from trainer.state.snapshot import Snapshot, load_network, read_snapshot, snapshot_steps

_POLL_SECONDS = 0.02


class LocalService:
    """Use as a context, or with `start` and `stop`; may be started again after a stop."""

    def __init__(
        self,
        config: RunConfig,
        *,
        before_serving: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Prepare to serve one run.

        Args:
            config: the run; its folder need not exist yet.
            before_serving: called with the step of each snapshot before it is looked for anew, so
                it may delay; the newest is taken afterwards.
        """
        self._config = config
        self._run = RunFolder(config.run_path)
        self._before_serving = before_serving
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self.served: list[int] = []
        """Versions in the order in which they were published."""

    def start(self) -> None:
        self._stopping.clear()
        self._thread = threading.Thread(target=self._guarded, name="local service")
        self._thread.start()

    def stop(self) -> None:
        """End between two tables; raises what the service failed of."""
        assert self._thread is not None
        self._stopping.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> LocalService:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _guarded(self) -> None:
        try:
            while not self._stopping.is_set():
                snapshot = self._unserved()
                if snapshot is None:
                    time.sleep(_POLL_SECONDS)
                    continue
                self._before_serving(snapshot.step)
                self._serve(self._unserved() or snapshot)
        except Exception as error:  # noqa: BLE001 - `stop` raises it in the test
            self._error = error

    def _unserved(self) -> Snapshot | None:
        """The snapshot written last, unless its tables are there."""
        folders = [self._run.snapshots / step_name(step) for step in snapshot_steps(self._run)]
        try:
            newest = max(folders, key=lambda f: (f / "manifest.json").stat().st_mtime_ns)
            snapshot = read_snapshot(newest)
            stats = store.stats(self._run.tables, snapshot.step)
        except (ValueError, OSError, TrainingError):  # none yet, or just being replaced
            return None
        except ClusterError:
            return snapshot
        served = all(s["snapshot_checksum"] == snapshot.checksum for s in stats.values())
        return None if served else snapshot

    def _serve(self, snapshot: Snapshot) -> None:
        version = snapshot.step
        folder = self._run.embeddings / step_name(version)
        self._embed(snapshot, folder)
        tables = {
            task: replace(table, stats={**table.stats, "snapshot_checksum": snapshot.checksum})
            for task, table in self._cluster(folder, version).items()
        }
        store.publish(self._run.tables, version, tables)
        self.served.append(version)

    def _embed(self, snapshot: Snapshot, folder: Path) -> None:
        torch.set_num_threads(1)
        manifest = Manifest.load(self._config.data.shards)
        assert manifest.checksum == snapshot.data_checksum
        network = load_network(snapshot)
        tasks = resolve_tasks(self._config, manifest)
        infos: dict[str, list] = {task.name: [] for task in tasks}
        for number, shard in enumerate(manifest.split("train").shards):
            embedded = embed_shard(
                network,
                manifest,
                number,
                split="train",
                batch_size=self._config.evaluation.batch_size,
                labels={task.name: task.label for task in tasks},
            )
            for task, rows in embedded.items():
                info = write_embedding_shard(
                    folder / task, shard.name, **vars(rows), origin=snapshot.checksum
                )
                infos[task].append(info)
        for task, of_task in infos.items():
            finish_embeddings(folder / task, of_task, snapshot.checksum)

    def _cluster(self, folder: Path, version: int) -> dict[str, ClusterTable]:
        manifest = Manifest.load(self._config.data.shards)
        return {
            task.name: cluster_locally(
                folder / task.name,
                task=task.name,
                version=version,
                num_classes=manifest.num_classes(task.label),
                config=self._config.cluster,
                seed=self._config.run.seed,
            )
            for task in resolve_tasks(self._config, manifest)
        }
