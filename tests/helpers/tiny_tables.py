"""Cluster tables over the images of `tiny_data`, with random directions."""

from __future__ import annotations

import numpy as np

from clustering.table.neighbours import neighbour_lists
from clustering.table.table import ClusterTable
from data_shards.shards.index import SampleIndex
from tests.helpers.reference_clustering import cluster_shapes, unit_rows


def table_of(
    index: SampleIndex,
    column: str,
    *,
    version: int = 0,
    dim: int = 8,
    largest: int = 4,
    seed: int = 0,
    snapshot_checksum: str = "",
) -> ClusterTable:
    """A valid table of every sample: the images of each class in clusters of up to `largest`."""
    rng = np.random.default_rng((seed, version))
    labels = index.labels(column)
    order = np.argsort(labels, kind="stable")
    within = np.concatenate([np.arange(count) // largest for count in np.bincount(labels)])
    pairs = np.stack([labels[order], within], axis=1)
    (unique, assignment) = np.unique(pairs, axis=0, return_inverse=True)
    rows = unit_rows(rng, len(labels), dim)
    directions, spread, concentration = cluster_shapes(rows, assignment)
    centroids = np.array(directions, dtype=np.float32)
    class_of = np.ascontiguousarray(unique[:, 0])
    neighbours, siblings = neighbour_lists(centroids, class_of, neighbours=8, siblings=4)
    return ClusterTable(
        version=version,
        task=column,
        centroids=centroids,
        class_of=class_of,
        member_ptr=np.concatenate([[0], np.cumsum(np.bincount(assignment))]),
        member_ids=index.ids[order],
        neighbours=neighbours,
        siblings=siblings,
        spread=np.array(spread, dtype=np.float32),
        concentration=np.array(concentration, dtype=np.float32),
        stats={"snapshot_checksum": snapshot_checksum},
    )
