"""Clusters and kNC scores of arrays: `clustering`'s, for embeddings of any length.

Legend: N samples, D embedding, C classes, M clusters, B samples of a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clmle.directions import as_array, normalised
from clustering.arrays import class_scores, cluster_arrays, require_table
from clustering.table.knc import Rule
from clustering.table.table import ClusterTable as ClusterTable


def cluster(
    embeddings: Any,
    labels: Any,
    *,
    target_size: int = 200,
    seed: int = 0,
    previous: ClusterTable | None = None,
    **settings: Any,
) -> ClusterTable:
    """Cluster each class by spherical k-means (`clustering.cluster_arrays`).

    Args:
        embeddings: (N, D) floating point, array or torch tensor; rows are normalised.
        labels: (N,) integers 0 .. C - 1, the class of each row; every class has a row.
        target_size: wanted mean size of a cluster; a class of n rows gets
            max(1, round(n / target_size)) clusters.
        seed: of the rows that k-means starts from, >= 0.
        previous: an earlier table of these classes, whose numbering is continued.
        settings: others of `clustering.ClusterConfig`, such as `iterations`.

    Returns:
        The clusters. Their sample ids (`member_ids`) are row numbers. The same arguments give the
        same table.

    Raises:
        DataError: arrays of other types or shapes, also swapped ones, or other labels than these;
            a ValueError.
        ValueError: a row without a direction: zero or not finite.
        ConfigError: a setting out of range; a ValueError too.
        ClusterError: FAISS is not installed.
    """
    return cluster_arrays(
        normalised(embeddings),
        as_array(labels),
        target_size=target_size,
        seed=seed,
        previous=previous,
        **settings,
    )


def knc_scores(
    embeddings: Any,
    table: ClusterTable,
    *,
    rule: Rule = "balanced",
    num_neighbours: int = 50,
    scale: float = 16.0,
) -> npt.NDArray[np.float32]:
    """Score every class for every embedding by its nearest clusters (`clustering.class_scores`).

    Args:
        embeddings: (N, D) floating point, array or torch tensor; rows are normalised.
        table: the clusters, such as those of `cluster`.
        rule: "margin", "soft" or "balanced", which `clustering.table.knc` explains.
        num_neighbours: nearest clusters that vote, of each class for "balanced", in all otherwise.
        scale: sharpness of the votes, > 0; of no effect on "margin".

    Returns:
        (N, C) float32; the largest of a row is the predicted class. -inf for a class with none of
        the clusters that vote.

    Raises:
        DataError: embeddings that are not a floating-point (N, D) array; a ValueError.
        TypeError: no table.
        ValueError: a row without a direction, a dimension that does not fit the table, or a setting
            out of range.
    """
    return class_scores(
        normalised(embeddings), table, rule=rule, num_neighbours=num_neighbours, scale=scale
    )


def cluster_ids(table: ClusterTable, sample_ids: Any) -> npt.NDArray[np.int64]:
    """The cluster of each sample.

    Args:
        table: the clusters.
        sample_ids: (B,) integers, array, list or torch tensor; with a table of `cluster`, row
            numbers.

    Returns:
        (B,) int64, 0 .. M - 1.

    Raises:
        TypeError: no table.
        DataError: sample ids that are not integers, or a sample that is in no cluster; a
            ValueError.
    """
    require_table(table)
    wanted = as_array(sample_ids)
    if not wanted.size:
        wanted = wanted.astype(np.int64)  # an empty list has no type of its own
    return table.clusters_of_samples(wanted)
