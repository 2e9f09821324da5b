"""What `clmle classify` and the facade's runs share; both are tested where they are."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.cluster_tables import tiny_table
from trainer.evaluation.classifier import similarities


def test_similarity_is_to_the_nearest_cluster_of_the_class() -> None:
    table = tiny_table(clusters_per_class=(3, 1, 2))
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(7, table.dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    classes = rng.integers(0, 3, size=7)
    expected = [
        max(float(row @ c) for c, k in zip(table.centroids, table.class_of, strict=True) if k == y)
        for row, y in zip(rows, classes, strict=True)
    ]
    assert similarities(rows, classes, table) == pytest.approx(expected, abs=1e-6)
    assert similarities(rows[:0], classes[:0], table).shape == (0,)
