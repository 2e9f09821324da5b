"""Embeddings of a task -> its cluster table: plan, have the classes clustered, put together.

Legend: N samples, C classes, M clusters.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.bundle import BundleResult, BundleWork
from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.kmeans import BACKEND
from clustering.neighbours import neighbour_lists
from clustering.plan import Plan, make_plan
from clustering.quality import table_quality
from clustering.table import ClusterTable
from clustering.workers import LocalWorker, RayWorkers, Workers
from data_shards.embeddings import EmbeddingShards

logger = logging.getLogger(__name__)

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
        previous: the task's table before this one, to measure churn.
        on_progress: told whenever classes are done.
        workers: who clusters; None for Ray, to which this process must be connected.

    Returns:
        A valid table. Its stats hold `seconds`, `backend`, `seed`, `embeddings_origin`,
        `clusters/dropped` (wanted clusters that would have been empty), the numbers of
        `table_quality`, and the extra ones.

    Raises:
        ClusterError: on a class without a sample, embeddings that are not finite vectors of length
            1, or workers that are lost or late too often.
        DataError: when the embeddings are not finished or damaged.
    """
    started = time.monotonic()
    workers = RayWorkers(config) if workers is None else workers
    shards = EmbeddingShards.open(Path(embeddings_folder).resolve())
    class_sizes = _class_sizes(shards, num_classes)
    plan = make_plan(class_sizes, config, num_workers=workers.num_workers)
    logger.info("task %s, version %d: %s", task, version, plan.describe())
    works = _works(plan, shards, class_sizes, iterations=config.iterations, seed=seed)
    arrays = _assemble(shards.ids, works, _run(workers, works, on_progress))
    arrays["neighbours"], arrays["siblings"] = neighbour_lists(
        arrays["centroids"],
        arrays["class_of"],
        neighbours=config.neighbours,
        siblings=config.siblings,
    )
    table = ClusterTable.from_arrays(arrays, version=version, task=task, stats={})
    table.validate()
    stats: dict[str, float | int | str] = {
        "backend": BACKEND,
        "seed": seed,
        "embeddings_origin": shards.origin,
        "clusters/dropped": int(plan.num_clusters.sum()) - table.num_clusters,
        **table_quality(table, previous),
        "seconds": round(time.monotonic() - started, 3),
        **(extra_stats or {}),
    }
    return replace(table, stats=stats)


cluster_locally = partial(cluster_embeddings, workers=LocalWorker())
"""`cluster_embeddings` in this process, without Ray: for little data."""


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


def _works(
    plan: Plan,
    shards: EmbeddingShards,
    class_sizes: npt.NDArray[np.int64],
    *,
    iterations: int,
    seed: int,
) -> list[BundleWork]:
    # Rows go by sample id within a class: k-means depends on their order, and the order of the
    # rows in the shards on who embedded them.
    by_class = np.lexsort((shards.ids, shards.labels))
    ends = np.cumsum(class_sizes)
    starts = ends - class_sizes
    return [
        BundleWork(
            folder=str(shards.folder),
            classes=bundle.classes,
            class_sizes=class_sizes[bundle.classes],
            num_clusters=plan.num_clusters[bundle.classes],
            positions=np.concatenate([by_class[starts[c] : ends[c]] for c in bundle.classes]),
            iterations=iterations,
            seed=seed,
        )
        for bundle in plan.bundles
    ]


def _run(
    workers: Workers, works: Sequence[BundleWork], on_progress: OnProgress | None
) -> list[BundleResult]:
    """Results in the order of the works, whatever order they come in."""
    num_classes = sum(len(work.classes) for work in works)
    num_done = 0
    results: dict[int, BundleResult] = {}
    for number, result in workers.run(works):
        results[number] = result
        num_done += len(works[number].classes)
        if on_progress is not None:
            on_progress(num_done, num_classes)
    return [results[number] for number in range(len(works))]


def _assemble(
    ids: npt.NDArray[np.int64], works: Sequence[BundleWork], results: Sequence[BundleResult]
) -> dict[str, npt.NDArray[Any]]:
    """Put the bundles' clusters in order of class, the members of each in order of their id.

    Args:
        ids: (N,) sample ids by row number.
        works: the bundles.
        results: their clusters.

    Returns:
        The arrays of a `ClusterTable`, but for neighbours and siblings.
    """
    class_of = np.concatenate([result.class_of for result in results])
    order = np.argsort(class_of, kind="stable")
    number_of = np.empty_like(order)
    number_of[order] = np.arange(len(order))
    cluster_of_row = np.empty(len(ids), dtype=np.int64)
    first = 0
    for work, result in zip(works, results, strict=True):
        cluster_of_row[work.positions] = number_of[first + result.assignment]
        first += len(result.class_of)
    sizes = np.bincount(cluster_of_row, minlength=len(order))
    return {
        "class_of": class_of[order],
        "centroids": np.concatenate([result.centroids for result in results])[order],
        "spread": np.concatenate([result.spread for result in results])[order],
        "concentration": np.concatenate([result.concentration for result in results])[order],
        "member_ptr": np.concatenate([[0], np.cumsum(sizes)]),
        "member_ids": ids[np.lexsort((ids, cluster_of_row))],
    }
