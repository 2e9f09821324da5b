"""Embeddings of a task -> its cluster table: plan, have the classes clustered, put together.

Legend: N samples, C classes, M clusters.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.backends import BackendName, describe_backend
from clustering.bundle import BundleResult, BundleWork
from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.matching import matched_order
from clustering.neighbours import neighbour_lists
from clustering.plan import Plan, make_plan
from clustering.quality import table_quality
from clustering.table import ClusterTable
from clustering.workers import LocalWorker, RayWorkers, Workers
from data_shards.embeddings import EmbeddingShards

logger = logging.getLogger(__name__)

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
    extra_stats: Mapping[str, float | int | str] | None = None,
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
        extra_stats: what else to note in the table's stats.
        previous: the task's table before this one: its numbers are continued, k-means may start
            from it, and churn is measured against it.
        on_progress: told whenever classes are done.
        workers: who clusters; None for Ray, to which this process must be connected.

    Returns:
        A valid table. Its stats hold `seconds`, `worker_seconds` (reading and arithmetic of all
        workers), `iterations` (of all classes), `backend`, `seed`, `embeddings_origin`,
        `clusters/dropped` (wanted clusters that would have been empty), the numbers of
        `table_quality`, and the extra ones.

    Raises:
        ClusterError: on a class without a sample, embeddings that are not finite vectors of length
            1, or workers that are lost or late too often.
        DataError: when the embeddings are not finished or damaged.
    """
    started = time.monotonic()
    shards = EmbeddingShards.open(Path(embeddings_folder).resolve())
    class_sizes = _class_sizes(shards, num_classes)
    alike = _comparable(previous, shards, num_classes)
    warm = alike if config.init == "warm" else None
    with RayWorkers(config) if workers is None else nullcontext(workers) as team:
        plan = make_plan(class_sizes, config, num_workers=team.num_workers, dim=shards.dim)
        backend = describe_backend(team.backend)
        logger.info("task %s, version %d, %s: %s", task, version, backend, plan.summary())
        settings = _Settings(config=config, seed=seed, backend=team.backend, warm=warm)
        works = _works(plan, shards, class_sizes, settings)
        parts = _run(team, works, shards.dim, on_progress)
        arrays, work_stats = _assemble(shards.ids, parts, alike)
    arrays.update(_lists(arrays, config))
    table = ClusterTable.from_arrays(arrays, version=version, task=task, stats={})
    table.validate()
    stats: dict[str, float | int | str] = {
        "backend": backend,
        "seed": seed,
        "embeddings_origin": shards.origin,
        "clusters/dropped": int(plan.num_clusters.sum()) - table.num_clusters,
        **table_quality(table, previous),
        **work_stats,
        "seconds": round(time.monotonic() - started, 3),
        **(extra_stats or {}),
    }
    return replace(table, stats=stats)


def cluster_locally(
    embeddings_folder: Path | str, *, config: ClusterConfig, **others: Any
) -> ClusterTable:
    """`cluster_embeddings` in this process, without Ray: for little data."""
    workers = LocalWorker(config)
    return cluster_embeddings(embeddings_folder, config=config, workers=workers, **others)


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
class _Works:
    """Every class once."""

    sharded: list[BundleWork]
    """Of one class each, which all workers divide."""
    bundles: list[BundleWork]

    @property
    def all(self) -> list[BundleWork]:
        return self.sharded + self.bundles


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """The same for every bundle."""

    config: ClusterConfig
    seed: int
    backend: BackendName
    warm: ClusterTable | None
    """Where k-means starts from; None for rows."""


def _comparable(
    previous: ClusterTable | None, shards: EmbeddingShards, num_classes: int
) -> ClusterTable | None:
    """The previous table, if it is one of the same classes and dimension."""
    if previous is None or (previous.dim, previous.num_classes) == (shards.dim, num_classes):
        return previous
    logger.warning(
        "table %d of task %s has %d classes of dimension %d, the embeddings %d of %d: its clusters "
        "are not continued",
        *(previous.version, previous.task, previous.num_classes, previous.dim),
        *(num_classes, shards.dim),
    )
    return None


def _warm(table: ClusterTable, class_: int) -> npt.NDArray[np.float32]:
    """Centroids of a class, of the largest cluster first."""
    clusters = table.clusters_of_class(class_)
    return table.centroids[clusters[np.argsort(-table.cluster_sizes[clusters], kind="stable")]]


def _works(
    plan: Plan,
    shards: EmbeddingShards,
    class_sizes: npt.NDArray[np.int64],
    settings: _Settings,
) -> _Works:
    # Rows go by sample id within a class: k-means depends on their order, and the order of the
    # rows in the shards on who embedded them.
    by_class = np.lexsort((shards.ids, shards.labels))
    if len(by_class) < 2**31:
        by_class = by_class.astype(np.int32)  # half as much to hold and to send
    ends = np.cumsum(class_sizes)
    starts = ends - class_sizes

    warm = settings.warm

    def work(classes: npt.NDArray[np.int64]) -> BundleWork:
        return BundleWork(
            folder=str(shards.folder),
            classes=classes,
            class_sizes=class_sizes[classes],
            num_clusters=plan.num_clusters[classes],
            positions=np.concatenate([by_class[starts[c] : ends[c]] for c in classes.tolist()]),
            config=settings.config,
            seed=settings.seed,
            warm=None if warm is None else tuple(_warm(warm, c) for c in classes.tolist()),
            backend=settings.backend,
        )

    return _Works(
        sharded=[work(np.array([class_])) for class_ in plan.sharded],
        bundles=[work(bundle.classes) for bundle in plan.bundles],
    )


def _run(
    workers: Workers, works: _Works, dim: int, on_progress: OnProgress | None
) -> Iterator[tuple[BundleWork, BundleResult]]:
    """Cluster the classes that need all workers, then the others; yields them as they are done."""
    num_classes = sum(len(work.classes) for work in works.all)
    num_done = 0

    def done(work: BundleWork) -> None:
        nonlocal num_done
        num_done += len(work.classes)
        if on_progress is not None:
            on_progress(num_done, num_classes)

    for work in works.sharded:
        yield work, workers.run_sharded(work, dim=dim)
        done(work)
    for number, result in workers.run(works.bundles):
        yield works.bundles[number], result
        done(works.bundles[number])


def _assemble(
    ids: npt.NDArray[np.int64],
    parts: Iterable[tuple[BundleWork, BundleResult]],
    previous: ClusterTable | None,
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, float]]:
    """Put the bundles' clusters in order of class, the members of each in order of their id.

    Within a class they come in the order of the similar clusters of the previous table.

    Args:
        ids: (N,) sample ids by row number.
        parts: the bundles and their clusters, in any order.
        previous: the table whose numbers to continue; None for the order of first members.

    Returns:
        The arrays of a `ClusterTable`, but for neighbours and siblings; and stats of the work.
    """
    cluster_of_row = np.empty(len(ids), dtype=np.int32)
    results = []
    first = 0
    for work, result in parts:
        cluster_of_row[work.positions] = first + result.assignment
        results.append(replace(result, assignment=_NO_ROWS))
        first += len(result.class_of)
    class_of = np.concatenate([result.class_of for result in results])
    centroids = np.concatenate([result.centroids for result in results])
    order = np.argsort(class_of, kind="stable")
    if previous is not None:
        order = order[matched_order(centroids[order], class_of[order], previous)]
    number_of = np.empty(len(order), dtype=np.int32)
    number_of[order] = np.arange(len(order))
    cluster_of_row = number_of[cluster_of_row]
    sizes = np.bincount(cluster_of_row, minlength=len(order))
    work_stats = {
        "worker_seconds": round(sum(result.seconds for result in results), 3),
        "iterations": sum(result.iterations for result in results),
    }
    arrays = {
        "class_of": class_of[order],
        "centroids": centroids[order],
        "spread": np.concatenate([result.spread for result in results])[order],
        "concentration": np.concatenate([result.concentration for result in results])[order],
        "member_ptr": np.concatenate([[0], np.cumsum(sizes)]),
        "member_ids": ids[np.lexsort((ids, cluster_of_row))],
    }
    return arrays, work_stats


def _lists(
    arrays: Mapping[str, npt.NDArray[Any]], config: ClusterConfig
) -> dict[str, npt.NDArray[np.int64]]:
    neighbours, siblings = neighbour_lists(
        arrays["centroids"],
        arrays["class_of"],
        neighbours=config.neighbours,
        siblings=config.siblings,
        exact_up_to=config.exact_neighbours,
    )
    return {"neighbours": neighbours, "siblings": siblings}
