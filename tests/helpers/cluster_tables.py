"""Small valid cluster tables for tests."""

from __future__ import annotations

import numpy as np

from clustering.table.neighbours import neighbour_lists
from clustering.table.table import ClusterTable
from tests.helpers.reference_clustering import cluster_shapes, unit_rows


def tiny_table(
    *,
    version: int = 200,
    task: str = "identity",
    clusters_per_class: tuple[int, ...] = (3, 1, 2),
    dim: int = 4,
    seed: int = 0,
) -> ClusterTable:
    """A table of random clusters of 1 to 4 samples; the sample ids are in random order."""
    rng = np.random.default_rng(seed)
    class_of = np.repeat(np.arange(len(clusters_per_class)), clusters_per_class)
    sizes = rng.integers(1, 5, size=len(class_of))
    assignment = np.repeat(np.arange(len(class_of)), sizes)
    rows = unit_rows(rng, len(assignment), dim)
    directions, spread, concentration = cluster_shapes(rows, assignment)
    centroids = np.array(directions, dtype=np.float32)
    ids = rng.permutation(len(assignment)) * 3
    neighbours, siblings = neighbour_lists(centroids, class_of, neighbours=4, siblings=2)
    return ClusterTable(
        version=version,
        task=task,
        centroids=centroids,
        class_of=class_of,
        member_ptr=np.concatenate([[0], np.cumsum(sizes)]),
        member_ids=ids[np.lexsort((ids, assignment))],
        neighbours=neighbours,
        siblings=siblings,
        spread=np.array(spread, dtype=np.float32),
        concentration=np.array(concentration, dtype=np.float32),
        stats={"seed": seed},
    )
