"""The clustering service, started as ever, with one fault built in.

    python -m tests.helpers.faulty_service FAULT FOLDER --config FILE [...]

Each fault strikes once: FOLDER then holds a marker. Functions that Ray's workers run
are sent to them by value, as this is the main module.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from cluster_jobs import recluster
from cluster_jobs.errors import run_job
from cluster_jobs.ray_cluster import ray_watch
from cluster_jobs.service import embedding
from cluster_jobs.service.work_items import EmbeddedShard, EmbedWork, embed_one_shard
from clustering.execution.bundle_store import BundleStore
from clustering.kmeans.bundle import BundleResult, BundleWork


def kill_embedding_worker(folder: Path) -> None:
    marker = str(folder / "struck")

    def dies_once(work: EmbedWork) -> EmbeddedShard:
        if work.number == 1 and not os.path.exists(marker):
            with open(marker, "w"):
                os.kill(os.getpid(), signal.SIGKILL)
        return embed_one_shard(work)

    embedding.embed_one_shard = dies_once


def kill_service_after_a_bundle(folder: Path) -> None:
    save = BundleStore.save

    def saves_and_dies(store: BundleStore, work: BundleWork, result: BundleResult) -> None:
        save(store, work, result)
        (folder / "struck").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    BundleStore.save = saves_and_dies


def impatient_with_ray(folder: Path) -> None:
    """And embedding lasts for as long as the test needs."""
    ray_watch.PATIENCE_SECONDS = 2.0
    ray_watch._POLL_SECONDS, ray_watch._UNWIND_SECONDS = 0.2, 1.0
    marker = str(folder / "struck")

    def waits(work: EmbedWork) -> EmbeddedShard:
        import time

        open(marker, "w").close()
        time.sleep(60)
        return embed_one_shard(work)

    embedding.embed_one_shard = waits


FAULTS = {
    f.__name__: f for f in (kill_embedding_worker, kill_service_after_a_bundle, impatient_with_ray)
}


if __name__ == "__main__":
    FAULTS[sys.argv[1]](Path(sys.argv[2]))
    sys.exit(run_job(recluster.main, sys.argv[3:]))
