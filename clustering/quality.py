"""How good a cluster table is, in numbers to watch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clustering.table import ClusterTable


def table_quality(table: ClusterTable, previous: ClusterTable | None = None) -> dict[str, float]:
    """Measure a table; the names are those of metrics.

    Args:
        table: a valid table.
        previous: the table before it, of the same task; None for the first.

    Returns:
        - clusters/count, clusters/smallest, clusters/largest: clusters, and samples of the smallest
          and the largest;
        - clusters/singletons: share of clusters with one sample;
        - clusters/imbalance: M sum(n^2) / N^2 of the cluster sizes n; 1 = all are the same size;
        - clusters/spread_rad: mean angle of a sample to its centroid;
        - clusters/concentration: mean cosine of a sample and its centroid, what k-means maximises;
        - clusters/separation_rad: mean angle of a cluster to the nearest of another class (when
          there is another class, and neighbours are listed);
        - clusters/churn (when there is a previous table): of the samples in both tables, the share
          that lies outside the largest part that its cluster has in common with any earlier one.
          0 = each cluster is a part of an earlier one, however they are numbered.
    """
    sizes = table.cluster_sizes
    quality = {
        "clusters/count": float(table.num_clusters),
        "clusters/smallest": float(sizes.min()),
        "clusters/largest": float(sizes.max()),
        "clusters/singletons": float(np.mean(sizes == 1)),
        "clusters/imbalance": float(table.num_clusters * np.sum((sizes / sizes.sum()) ** 2)),
        "clusters/spread_rad": float(np.average(table.spread, weights=sizes)),
        "clusters/concentration": float(np.average(table.concentration, weights=sizes)),
    }
    if table.neighbours.shape[1]:
        quality["clusters/separation_rad"] = _separation(table)
    if previous is not None:
        quality["clusters/churn"] = _churn(previous, table)
    return quality


def _separation(table: ClusterTable) -> float:
    nearest = table.centroids[table.neighbours[:, 0]]
    cosines = np.einsum("md,md->m", table.centroids, nearest, dtype=np.float64)
    return float(np.arccos(np.clip(cosines, -1.0, 1.0)).mean())


def _churn(old: ClusterTable, new: ClusterTable) -> float:
    common, of_old, of_new = np.intersect1d(
        old.member_ids, new.member_ids, assume_unique=True, return_indices=True
    )
    if not len(common):
        return 1.0
    pairs = _cluster_of_member(new)[of_new] * old.num_clusters + _cluster_of_member(old)[of_old]
    pair, overlap = np.unique(pairs, return_counts=True)
    largest = np.zeros(new.num_clusters, dtype=np.int64)
    np.maximum.at(largest, pair // old.num_clusters, overlap)
    return float(1.0 - largest.sum() / len(common))


def _cluster_of_member(table: ClusterTable) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(table.num_clusters), table.cluster_sizes)
