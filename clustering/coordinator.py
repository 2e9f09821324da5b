"""Embeddings of a task -> its cluster table: plan, cluster every class, assemble.

Legend: N samples, C classes, M clusters.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.config import ClusterConfig
from clustering.execution.assembly import assemble
from clustering.execution.plan import Plan, make_plan
from clustering.execution.ray_workers import RayWorkers
from clustering.execution.rows import Rows
from clustering.execution.workers import Done, Workers, WorkList
from clustering.initialisation import INITIALISATIONS
from clustering.kmeans.backends import BackendName, describe_backend
from clustering.kmeans.bundle import BundleWork
from clustering.table.neighbours import neighbour_lists
from clustering.table.quality import class_quality, table_quality
from clustering.table.table import ClusterTable
from data_shards.progress import OnStep, no_step

logger = logging.getLogger(__name__)

_NUM_WORST_CLASSES = 10  # that are named in the stats
_NO_ROWS = np.empty(0, dtype=np.int32)

OnProgress = Callable[[int, int], None]
"""Called with (classes done, classes in all) whenever classes are done."""


def cluster_embeddings(  # noqa: PLR0913 - what identifies a table, and how to make it
    embeddings_folder: Path | str,
    *,
    task: str,
    version: int,
    num_classes: int,
    config: ClusterConfig,
    seed: int,
    previous: ClusterTable | None = None,
    on_progress: OnProgress | None = None,
    on_step: OnStep = no_step,
    workers: Workers | None = None,
) -> ClusterTable:
    """Cluster every class of a task's embeddings.

    The same embeddings and seed give the same arrays to the last bit, whoever the workers are and
    however the embeddings are split into shards.

    Args:
        embeddings_folder: finished embedding shards; workers read them by this path.
        task: name of the task.
        version: the step whose weights made the embeddings.
        num_classes: C; the embeddings must hold every class 0 .. C - 1.
        config: cluster sizes, list lengths, workers.
        seed: of the initialisation of k-means, >= 0.
        previous: the task's previous table: its numbering is continued, k-means may start from it,
            and churn is measured against it.
        on_progress: called whenever classes are done.
        on_step: called after each step of what this process does itself: reading ids and labels,
            assembly, neighbours, quality.
        workers: who clusters; None for Ray, to which this process must be connected.

    Returns:
        A valid table. Its stats hold `seconds`, `worker_seconds` (checking, reading, moving and
        arithmetic of all workers), `iterations` (of all classes), `backend`, `transport` (how rows
        reached their workers), `seed`, `embeddings_origin`, `clusters/dropped` (wanted clusters
        that would have been empty), `worst_classes` (those of the least concentration, the worst
        first) and the numbers of `table_quality`.

    Raises:
        ClusterError: on a class without a sample, embeddings that are not finite vectors of length
            1, or workers that are lost or late too often.
        DataError: when the embeddings are not finished or damaged.
    """
    started = time.monotonic()
    rows = Rows.read(Path(embeddings_folder).resolve(), num_classes, on_step)
    if workers is None:
        workers = RayWorkers(config, class_sizes=[rows.class_sizes])
    order = TableOrder(task=task, version=version, config=config, seed=seed, previous=previous)
    return make_table(rows, order, workers, on_progress, on_step=on_step, started=started)


@dataclass(frozen=True, kw_only=True)
class TableOrder:
    """Which table to make; see `cluster_embeddings`."""

    task: str
    version: int
    config: ClusterConfig
    seed: int
    previous: ClusterTable | None


def make_table(
    rows: Rows,
    order: TableOrder,
    workers: Workers,
    on_progress: OnProgress | None = None,
    *,
    on_step: OnStep = no_step,
    started: float,
) -> ClusterTable:
    """Cluster every class of some rows; see `cluster_embeddings`.

    Args:
        rows: the row numbers are taken out of it.
        order: the table to make.
        workers: who clusters; they must know where the vectors are.
        on_progress: called whenever classes are done.
        on_step: called after each step of what this process does itself.
        started: on the monotonic clock, in seconds; the table's `seconds` count from then.
    """
    config = order.config
    moving_before = workers.seconds
    comparable = _comparable(order.previous, rows)
    plan = _plan(rows, config, workers)
    backend = describe_backend(workers.backend)
    logger.info("task %s, version %d, %s: %s", order.task, order.version, backend, plan.summary())
    on_step()
    initial = comparable if INITIALISATIONS[config.init].uses_previous else None
    settings = _Settings(config=config, seed=order.seed, backend=workers.backend, initial=initial)
    done = _run(workers, _work_list(plan, rows, settings), on_progress, on_step)
    arrays, work_stats = assemble(rows.ids, done, comparable, on_step)
    arrays.update(_lists(arrays, config, on_step))
    table = ClusterTable.from_arrays(arrays, version=order.version, task=order.task, stats={})
    table.validate()
    on_step()
    stats: dict[str, float | int | str] = {
        "backend": backend,
        "transport": plan.transport.route,
        "seed": order.seed,
        "embeddings_origin": rows.origin,
        "clusters/dropped": int(plan.num_clusters.sum()) - table.num_clusters,
        "worst_classes": ", ".join(map(str, class_quality(table).worst(_NUM_WORST_CLASSES))),
        **table_quality(table, order.previous, on_step),
        **work_stats,
        "worker_seconds": round(work_stats["worker_seconds"] + workers.seconds - moving_before, 3),
        "seconds": round(time.monotonic() - started, 3),
    }
    return replace(table, stats=stats)


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """The same for every bundle."""

    config: ClusterConfig
    seed: int
    backend: BackendName
    initial: ClusterTable | None
    """The previous table, if k-means starts from it."""


def _comparable(previous: ClusterTable | None, rows: Rows) -> ClusterTable | None:
    """The previous table, if it has the same classes and dimension."""
    num_classes = len(rows.class_sizes)
    if previous is None or (previous.dim, previous.num_classes) == (rows.dim, num_classes):
        return previous
    logger.warning(
        "table %d of task %s has %d classes of dimension %d, the embeddings %d of %d: its clusters "
        "are not continued",
        *(previous.version, previous.task, previous.num_classes, previous.dim),
        *(num_classes, rows.dim),
    )
    return None


def _centroids_of_class(table: ClusterTable, class_: int) -> npt.NDArray[np.float32]:
    """(any, D) centroids of a class, that of the largest cluster first."""
    clusters = table.clusters_of_class(class_)
    return table.centroids[clusters[np.argsort(-table.cluster_sizes[clusters], kind="stable")]]


def _plan(rows: Rows, config: ClusterConfig, workers: Workers) -> Plan:
    return make_plan(
        rows.class_sizes,
        config,
        num_workers=workers.num_workers,
        dim=rows.dim,
        num_nodes=workers.num_nodes,
        object_store_bytes=workers.object_store_bytes,
    )


def _work_list(plan: Plan, rows: Rows, settings: _Settings) -> WorkList:
    """Every class once; takes the row numbers out of `rows`."""
    by_class, rows.by_class = rows.by_class, _NO_ROWS
    ends = np.cumsum(plan.class_sizes)
    starts = ends - plan.class_sizes
    initial = settings.initial

    def work(classes: npt.NDArray[np.int64]) -> BundleWork:
        previous = None
        if initial is not None:
            previous = tuple(_centroids_of_class(initial, c) for c in classes.tolist())
        return BundleWork(
            folder=rows.folder,
            classes=classes,
            class_sizes=plan.class_sizes[classes],
            num_clusters=plan.num_clusters[classes],
            positions=np.concatenate([by_class[starts[c] : ends[c]] for c in classes.tolist()]),
            config=settings.config,
            seed=settings.seed,
            previous=previous,
            backend=settings.backend,
        )

    return WorkList(
        folder=rows.folder,
        shards=rows.shards,
        dim=rows.dim,
        partitioned=[work(np.array([class_])) for class_ in plan.partitioned],
        num_partitions=plan.num_partitions,
        bundles=[work(bundle.classes) for bundle in plan.bundles],
        transport=plan.transport,
    )


def _run(
    workers: Workers, works: WorkList, on_progress: OnProgress | None, on_step: OnStep
) -> Iterator[Done]:
    """Do all the work; yields it as it is done."""
    num_done = 0
    for work, result in workers.run(works):
        yield work, result
        num_done += len(work.classes)
        if on_progress is not None:
            on_progress(num_done, works.num_classes)
        on_step()


def _lists(
    arrays: Mapping[str, npt.NDArray[Any]], config: ClusterConfig, on_step: OnStep
) -> dict[str, npt.NDArray[np.int64]]:
    neighbours, siblings = neighbour_lists(
        arrays["centroids"],
        arrays["class_of"],
        neighbours=config.listed_neighbours,
        siblings=config.listed_siblings,
        exact_up_to=config.exact_neighbours,
        on_step=on_step,
    )
    return {"neighbours": neighbours, "siblings": siblings}
