"""Cluster tables of given cluster sizes, for the sampler; valid, with random centroids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clustering.table.neighbours import neighbour_lists
from clustering.table.table import ClusterTable


def make_table(
    cluster_sizes: Sequence[Sequence[int]], *, neighbours: int = 32, siblings: int = 8
) -> ClusterTable:
    """Build a table from the sizes of each class's clusters.

    Sample ids are 0, 10, 20, ... in the order of the clusters, so that they differ from positions.
    """
    sizes = np.concatenate([np.array(of_class) for of_class in cluster_sizes])
    class_of = np.repeat(np.arange(len(cluster_sizes)), [len(s) for s in cluster_sizes])
    centroids = np.random.default_rng(0).standard_normal((len(sizes), 8)).astype(np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    nearest, same = neighbour_lists(centroids, class_of, neighbours=neighbours, siblings=siblings)
    return ClusterTable(
        version=0,
        task="class",
        centroids=centroids,
        class_of=class_of,
        member_ptr=np.concatenate([[0], np.cumsum(sizes)]),
        member_ids=np.arange(sizes.sum()) * 10,
        neighbours=nearest,
        siblings=same,
        spread=np.full(len(sizes), 0.1, np.float32),
        concentration=np.full(len(sizes), 0.995, np.float32),
        stats={},
    )
