"""Embeddings of a task -> its cluster table: plan, have the classes clustered, put together.

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
from clustering.errors import ClusterError
from clustering.execution.assembly import assemble
from clustering.execution.plan import Plan, make_plan
from clustering.execution.workers import Done, LocalWorker, RayWorkers, Workers, WorkList
from clustering.kmeans.backends import BackendName, describe_backend
from clustering.kmeans.bundle import BundleWork
from clustering.table.neighbours import neighbour_lists
from clustering.table.quality import class_quality, table_quality
from clustering.table.table import ClusterTable
from data_shards.features.embedding_shard import EmbeddingShardInfo
from data_shards.features.embeddings import EmbeddingShards

logger = logging.getLogger(__name__)

_WORST_CLASSES = 10  # that are named in the stats
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
    workers: Workers | None = None,
) -> ClusterTable:
    """Cluster every class of a task's embeddings.

    The same embeddings and seed give the same arrays to the last bit, whoever the workers are and
    however the embeddings are divided into shards.

    Args:
        embeddings_folder: finished embedding shards; workers read them by this path.
        task: name of the task.
        version: the step whose weights made the embeddings.
        num_classes: C; the embeddings must hold every class 0 .. C - 1.
        config: cluster sizes, list lengths, workers.
        seed: of the random rows that k-means starts from, >= 0.
        previous: the task's table before this one: its numbers are continued, k-means may start
            from it, and churn is measured against it.
        on_progress: told whenever classes are done.
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
    rows = _Rows.read(Path(embeddings_folder).resolve(), num_classes)
    team = RayWorkers(config, class_sizes=[rows.class_sizes]) if workers is None else workers
    moving_before = team.seconds
    alike = _comparable(previous, rows.dim, num_classes)
    plan = _plan(rows, config, team)
    backend = describe_backend(team.backend)
    logger.info("task %s, version %d, %s: %s", task, version, backend, plan.summary())
    warm = alike if config.init == "warm" else None
    settings = _Settings(config=config, seed=seed, backend=team.backend, warm=warm)
    done = _run(team, _works(plan, rows, settings), on_progress)
    arrays, work_stats = assemble(rows.ids, done, alike)
    arrays.update(_lists(arrays, config))
    table = ClusterTable.from_arrays(arrays, version=version, task=task, stats={})
    table.validate()
    stats: dict[str, float | int | str] = {
        "backend": backend,
        "transport": plan.transport.route,
        "seed": seed,
        "embeddings_origin": rows.origin,
        "clusters/dropped": int(plan.num_clusters.sum()) - table.num_clusters,
        "worst_classes": ", ".join(map(str, class_quality(table).worst(_WORST_CLASSES))),
        **table_quality(table, previous),
        **work_stats,
        "worker_seconds": round(work_stats["worker_seconds"] + team.seconds - moving_before, 3),
        "seconds": round(time.monotonic() - started, 3),
    }
    return replace(table, stats=stats)


def cluster_locally(
    embeddings_folder: Path | str, *, config: ClusterConfig, **others: Any
) -> ClusterTable:
    """`cluster_embeddings` in this process, without Ray: for little data."""
    workers = LocalWorker(config)
    return cluster_embeddings(embeddings_folder, config=config, workers=workers, **others)


@dataclass(kw_only=True)
class _Rows:
    """What the driver knows of the embeddings: all but the vectors."""

    folder: Path
    shards: tuple[EmbeddingShardInfo, ...]
    origin: str
    dim: int
    ids: npt.NDArray[np.int64]
    """(N,) sample ids by row number."""
    class_sizes: npt.NDArray[np.int64]
    """(C,) rows of each class."""
    by_class: npt.NDArray[np.integer]
    """(N,) row numbers, class after class, those of a class by sample id: k-means depends on their
    order, and the order of the rows in the shards on who embedded them."""

    @classmethod
    def read(cls, folder: Path, num_classes: int) -> _Rows:
        """Read ids and labels, and compare them with their checksums.

        Raises:
            ClusterError: when there are other classes.
            DataError: when the embeddings are not finished or damaged.
        """
        shards = EmbeddingShards.open(folder, verify_vectors=False)
        class_sizes = _class_sizes(shards, num_classes)
        in_order = bool(np.all(shards.ids[1:] > shards.ids[:-1]))
        if in_order:
            by_class = np.argsort(shards.labels, kind="stable")
        else:
            by_class = np.lexsort((shards.ids, shards.labels))
        if len(by_class) < 2**31:
            by_class = by_class.astype(np.int32)  # half as much to hold and to send
        return cls(
            folder=folder,
            shards=shards.shards,
            origin=shards.origin,
            dim=shards.dim,
            ids=shards.ids,
            class_sizes=class_sizes,
            by_class=by_class,
        )


def _class_sizes(shards: EmbeddingShards, num_classes: int) -> npt.NDArray[np.int64]:
    """(C,) rows of each class."""
    outside = (shards.labels < 0) | (shards.labels >= num_classes)
    if outside.any():
        first = int(np.argmax(outside))
        raise ClusterError(
            f"expected classes 0..{num_classes - 1}; {np.count_nonzero(outside)} embeddings in "
            f"{shards.folder} have others, the first is of sample {shards.ids[first]}, class "
            f"{shards.labels[first]}: they were made from other data; embed again"
        )
    return np.bincount(shards.labels, minlength=num_classes)


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """The same for every bundle."""

    config: ClusterConfig
    seed: int
    backend: BackendName
    warm: ClusterTable | None
    """Where k-means starts from; None for rows."""


def _comparable(previous: ClusterTable | None, dim: int, num_classes: int) -> ClusterTable | None:
    """The previous table, if it is one of the same classes and dimension."""
    if previous is None or (previous.dim, previous.num_classes) == (dim, num_classes):
        return previous
    logger.warning(
        "table %d of task %s has %d classes of dimension %d, the embeddings %d of %d: its clusters "
        "are not continued",
        *(previous.version, previous.task, previous.num_classes, previous.dim),
        *(num_classes, dim),
    )
    return None


def _warm(table: ClusterTable, class_: int) -> npt.NDArray[np.float32]:
    """Centroids of a class, of the largest cluster first."""
    clusters = table.clusters_of_class(class_)
    return table.centroids[clusters[np.argsort(-table.cluster_sizes[clusters], kind="stable")]]


def _plan(rows: _Rows, config: ClusterConfig, workers: Workers) -> Plan:
    return make_plan(
        rows.class_sizes,
        config,
        num_workers=workers.num_workers,
        dim=rows.dim,
        num_nodes=workers.num_nodes,
        object_store_bytes=workers.object_store_bytes,
    )


def _works(plan: Plan, rows: _Rows, settings: _Settings) -> WorkList:
    """Every class once; takes the row numbers out of `rows`."""
    by_class, rows.by_class = rows.by_class, _NO_ROWS
    ends = np.cumsum(plan.class_sizes)
    starts = ends - plan.class_sizes
    warm = settings.warm

    def work(classes: npt.NDArray[np.int64]) -> BundleWork:
        return BundleWork(
            folder=str(rows.folder),
            classes=classes,
            class_sizes=plan.class_sizes[classes],
            num_clusters=plan.num_clusters[classes],
            positions=np.concatenate([by_class[starts[c] : ends[c]] for c in classes.tolist()]),
            config=settings.config,
            seed=settings.seed,
            warm=None if warm is None else tuple(_warm(warm, c) for c in classes.tolist()),
            backend=settings.backend,
        )

    return WorkList(
        folder=str(rows.folder),
        shards=rows.shards,
        dim=rows.dim,
        sharded=[work(np.array([class_])) for class_ in plan.sharded],
        lanes=plan.lanes,
        bundles=[work(bundle.classes) for bundle in plan.bundles],
        transport=plan.transport,
    )


def _run(workers: Workers, works: WorkList, on_progress: OnProgress | None) -> Iterator[Done]:
    """Have everything clustered; yields it as it is done."""
    num_done = 0
    for work, result in workers.run(works):
        yield work, result
        num_done += len(work.classes)
        if on_progress is not None:
            on_progress(num_done, works.num_classes)


def _lists(
    arrays: Mapping[str, npt.NDArray[Any]], config: ClusterConfig
) -> dict[str, npt.NDArray[np.int64]]:
    neighbours, siblings = neighbour_lists(
        arrays["centroids"],
        arrays["class_of"],
        neighbours=config.listed_neighbours,
        siblings=config.listed_siblings,
        exact_up_to=config.exact_neighbours,
    )
    return {"neighbours": neighbours, "siblings": siblings}
