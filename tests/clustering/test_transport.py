from __future__ import annotations

import numpy as np
import pytest

from clustering.config import ClusterConfig
from clustering.transport import choose_transport, cut_spans

MIB = 2**20


@pytest.mark.parametrize(
    ("wanted", "num_nodes", "store", "route"),
    [
        ("auto", 1, 1000, "shared_files"),
        ("auto", 2, 1000, "object_store"),
        ("auto", 2, 0, "shared_files"),
        ("object_store", 1, 1000, "object_store"),
        ("object_store", 1, 0, "shared_files"),
        ("shared_files", 2, 1000, "shared_files"),
    ],
)
def test_the_rule(wanted: str, num_nodes: int, store: int, route: str) -> None:
    config = ClusterConfig(transport=wanted)
    transport = choose_transport(
        config, num_workers=2, num_nodes=num_nodes, object_store_bytes=store
    )
    assert transport.route == route
    assert transport.reason


def test_rows_of_divided_classes_are_bounded_by_the_workers_and_by_the_store() -> None:
    config = ClusterConfig(memory_mib_per_worker=10)
    for store, held in ((1000 * MIB, 20 * MIB), (50 * MIB, 15 * MIB)):
        transport = choose_transport(config, num_workers=2, num_nodes=1, object_store_bytes=store)
        assert transport.held_bytes == held


def test_waves_keep_the_order_and_the_bound() -> None:
    transport = choose_transport(
        ClusterConfig(), num_workers=2, num_nodes=2, object_store_bytes=500
    )
    assert transport.wave_bytes == 100
    assert transport.waves([60, 30, 20, 101, 80, 1]) == [[0, 1], [2, 4], [5]]
    assert transport.waves([]) == []


def test_spans_are_every_row_once_in_order() -> None:
    positions = np.arange(10_000) * 3
    spans = cut_spans(positions, num_pieces=2, row_bytes=2048, num_workers=4)
    assert len(spans) == 8
    assert np.concatenate(spans).tolist() == positions.tolist()


def test_pieces_are_large() -> None:
    positions = np.arange(10_000)
    assert len(cut_spans(positions, num_pieces=8, row_bytes=2048, num_workers=9)) == 2
    assert len(cut_spans(positions, num_pieces=50, row_bytes=2048, num_workers=9)) == 1
    assert cut_spans(positions[:0], num_pieces=2, row_bytes=4, num_workers=2) == []
