"""Clusters of arrays, without Ray and without a run.

Legend: N samples, D embedding, C classes, M clusters.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from clmle.unit_rows import as_array, unit_rows
from clustering.config import ClusterConfig
from clustering.kmeans.faiss_installed import require_faiss
from clustering.table.knc import Rule, knc_predict
from clustering.table.table import ClusterTable as ClusterTable
from data_shards.features.embedding_shard import write_embedding_shard
from data_shards.features.embeddings import finish_embeddings

_TASK = "class"


def cluster(embeddings: Any, labels: Any, *, target_size: int = 200, seed: int = 0) -> ClusterTable:
    """Divide each class into clusters by spherical k-means.

    Args:
        embeddings: (N, D) floating point, array or torch tensor; rows are normalised.
        labels: (N,) integers 0 .. C - 1, the class of each row; every class has a row.
        target_size: wanted mean size of a cluster; a class of n rows gets
            max(1, round(n / target_size)) clusters.
        seed: of the rows that k-means starts from, >= 0.

    Returns:
        The clusters. Their sample ids (`member_ids`) are row numbers. The same arguments give the
        same table.

    Raises:
        TypeError: arrays of other types or dimensions, also swapped ones.
        ValueError: other lengths or labels than these, or a row without a direction.
        ClusterError: FAISS is not installed.
    """
    require_faiss()
    rows = unit_rows(embeddings)
    config = ClusterConfig(target_size=target_size)
    return _cluster_arrays(rows, _checked_labels(labels, len(rows)), config, seed)


def knc_scores(
    embeddings: Any,
    table: ClusterTable,
    *,
    rule: Rule = "balanced",
    num_neighbours: int = 50,
    scale: float = 16.0,
) -> npt.NDArray[np.float32]:
    """Score every class for every embedding by its nearest clusters.

    Args:
        embeddings: (N, D) floating point, array or torch tensor; rows are normalised.
        table: the clusters, such as of `cluster`.
        rule: "margin", "soft" or "balanced", which `clustering.table.knc` explains.
        num_neighbours: nearest clusters that vote, of each class for "balanced", in all otherwise.
        scale: sharpness of the votes, > 0; of no effect on "margin".

    Returns:
        (N, C) float32; the largest of a row is the predicted class. -inf for a class with none of
        the clusters that vote.

    Raises:
        TypeError: embeddings that are no floating-point (N, D) array, or no table.
        ValueError: a dimension that does not fit the table, or a setting out of range.
    """
    queries = unit_rows(embeddings)
    check_table(table)
    scores = np.empty((len(queries), table.num_classes), np.float32)
    knc_predict(
        queries,
        table.centroids,
        table.class_of,
        num_classes=table.num_classes,
        rules=[rule],
        num_neighbours=num_neighbours,
        scale=scale,
        scores={rule: scores},
    )
    return scores


def cluster_ids(table: ClusterTable, sample_ids: Any) -> npt.NDArray[np.int64]:
    """The cluster of each sample.

    Args:
        table: the clusters.
        sample_ids: (B,) integers; of a table of `cluster`, row numbers.

    Returns:
        (B,) int64, 0 .. M - 1.

    Raises:
        TypeError: no table, or sample ids that are no integers.
        ValueError: a sample that is in no cluster.
    """
    check_table(table)
    wanted = as_array(sample_ids)
    if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
        raise TypeError(
            f"sample_ids must be integers of shape (B,), got {wanted.dtype} of shape {wanted.shape}"
        )
    order = np.argsort(table.member_ids, kind="stable")
    places = np.searchsorted(table.member_ids, wanted, sorter=order)
    rows = order[np.minimum(places, len(order) - 1)]
    known = table.member_ids[rows] == wanted
    if not known.all():
        raise ValueError(f"sample {wanted[np.argmin(known)]} is in no cluster of the table")
    return np.repeat(np.arange(table.num_clusters), table.cluster_sizes)[rows]


def check_table(table: object) -> None:
    """Refuse anything but a cluster table.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(table, ClusterTable):
        raise TypeError(
            f"table must be a ClusterTable, such as clmle.cluster gives, got {type(table).__name__}"
        )


def _checked_labels(labels: Any, num_rows: int) -> npt.NDArray[np.int64]:
    classes = as_array(labels)
    if classes.ndim != 1 or not np.issubdtype(classes.dtype, np.integer):
        raise TypeError(
            f"labels must be integers of shape (N,), got {classes.dtype} of shape {classes.shape}; "
            "numpy.unique(names, return_inverse=True)[1] makes them of names"
        )
    if len(classes) != num_rows:
        raise ValueError(f"there are {num_rows} embeddings but {len(classes)} labels")
    found = np.unique(classes)
    if not np.array_equal(found, np.arange(len(found))):
        raise ValueError(
            f"labels must be 0 .. C - 1, each at least once; got {len(found)} values from "
            f"{found[0]} to {found[-1]}: numpy.unique(labels, return_inverse=True)[1] numbers them"
        )
    return classes.astype(np.int64)


def _cluster_arrays(
    rows: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    config: ClusterConfig,
    seed: int,
) -> ClusterTable:
    """Cluster unit rows in this process, by way of embedding shards in a temporary folder."""
    from clustering.coordinator import cluster_locally

    ids = np.arange(len(rows), dtype=np.int64)
    with TemporaryDirectory(prefix="clmle-") as name:
        folder = Path(name)
        shard = write_embedding_shard(
            folder, "rows", embeddings=rows, ids=ids, labels=labels, origin="arrays"
        )
        finish_embeddings(folder, [shard], "arrays")
        return cluster_locally(
            folder,
            config=config,
            task=_TASK,
            version=0,
            num_classes=int(labels.max()) + 1,
            seed=seed,
        )
