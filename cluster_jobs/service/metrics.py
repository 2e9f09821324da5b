"""Scalars of the clustering service, one set per refresh, beside the trainer's metrics."""

from __future__ import annotations

from collections.abc import Sequence

from cluster_jobs.service.refresh import Measured
from cluster_jobs.service.table_requests import Request
from trainer.run.folder import RunFolder
from trainer.state.metrics import MetricWriter

PART = "service"


class ServiceMetrics:
    """Writes scalars at the step of each table, counted from the start of this service.

    They go to `RUN/tensorboard/service` and `RUN/service_metrics.jsonl`.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._writer: MetricWriter | None = None
        self._queue_length = 0
        self._skipped: set[Request] = set()
        self._num_published = 0

    def taken(self, waiting: Sequence[Request], chosen: Request | None) -> None:
        """Count the requests that waited when one was taken.

        Args:
            waiting: the requests without tables, in the order of writing.
            chosen: the one that is served; those before it are skipped for good.
        """
        self._queue_length = len(waiting)
        self._skipped |= {r for r in waiting if chosen is not None and r < chosen}

    def published(self, version: int, measured: Measured) -> None:
        """Write what a refresh cost."""
        self._num_published += 1
        if self._writer is None:
            self._writer = MetricWriter(self._run, part=PART)
        embeddings = measured.rows * measured.num_tasks
        values = {
            "queue_length": self._queue_length,
            "skipped_snapshots": len(self._skipped),
            "tables_published": self._num_published,
            "refresh_seconds": measured.seconds,
            "embed_seconds": measured.embed_seconds,
            "cluster_seconds": measured.cluster_seconds,
            "publish_seconds": measured.publish_seconds,
            "embed_rows_per_second": measured.rows / measured.embed_seconds,
            "cluster_rows_per_second": embeddings / measured.cluster_seconds,
            "bytes_read": measured.bytes_read,
            "bytes_moved": measured.bytes_moved,
            "reused_shards": measured.reused_shards,
            "reused_classes": measured.reused_classes,
        }
        self._writer.write(version, {f"{PART}/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Flush everything to disk."""
        if self._writer is not None:
            self._writer.close()
