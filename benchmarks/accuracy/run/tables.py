"""Cluster tables for a training, made by a thread of its own process.

The work is that of the clustering service, function by function, with one worker and without Ray:
a table's arrays do not depend on who makes it, and a comparison of hundreds of short trainings
should not start hundreds of Ray clusters.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from dataclasses import replace

from cluster_jobs.embed import embed_works
from cluster_jobs.ray_cluster.workers import embed_one_shard
from cluster_jobs.service.pruning import prune
from cluster_jobs.service.refresh import SPLIT, tables_before
from cluster_jobs.service.table_requests import Request, identity, is_served, newest_request
from clustering.coordinator import cluster_locally
from clustering.table import store
from data_shards.features.embeddings import finish_embeddings
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.run.folder import RunFolder, step_name
from trainer.state.snapshot import Snapshot, read_snapshot

_POLL_SECONDS = 0.02
_FAILED = 70


class TableThread:
    """Serves a run's requests for tables while it is entered; a failure ends the process."""

    def __init__(self, config: RunConfig) -> None:
        """Prepare.

        Args:
            config: the run; its folder need not exist yet.
        """
        self._config = config
        self._run = RunFolder(config.run_path.absolute())
        self._manifest = Manifest.load(config.data.shards)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name="tables", daemon=True)

    def __enter__(self) -> TableThread:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _guarded(self) -> None:
        try:
            self._serve_all()
        except Exception:  # noqa: BLE001 - the training would wait for a table in vain
            traceback.print_exc()
            os._exit(_FAILED)

    def _serve_all(self) -> None:
        served: Request | None = None
        while not self._ended.is_set():
            request = newest_request(self._run)
            if request is None or request == served:
                time.sleep(_POLL_SECONDS)
                continue
            snapshot = read_snapshot(request.folder)
            if not is_served(self._run, snapshot):
                self._serve(snapshot)
            served = request

    def _serve(self, snapshot: Snapshot) -> None:
        version = snapshot.step
        out = self._run.embeddings / step_name(version)
        works = embed_works(self._config, self._manifest, snapshot, split=SPLIT, out=out)
        embedded = [embed_one_shard(work) for work in works]
        previous = tables_before(version, self._run)
        tables = {}
        for task in works[0].tasks:
            folder = out / task.name
            infos = [shard.infos[task.name] for shard in embedded]
            finish_embeddings(folder, infos, works[0].origin)
            table = cluster_locally(
                folder,
                task=task.name,
                version=version,
                num_classes=self._manifest.num_classes(task.label),
                config=self._config.cluster,
                seed=self._config.run.seed,
                previous=previous.get(task.name),
            )
            stats = {**table.stats, **identity(snapshot)}
            tables[task.name] = replace(table, stats=stats)
        store.publish(self._run.tables, version, tables)
        prune(self._run, version)
