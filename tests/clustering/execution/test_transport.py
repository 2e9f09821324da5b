from __future__ import annotations

from dataclasses import replace

import pytest

from clustering.config import ClusterConfig
from clustering.execution.transport import choose_transport, cut_spans

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


def test_rows_of_partitioned_classes_are_bounded_by_the_workers_and_by_the_store() -> None:
    config = ClusterConfig(memory_mib_per_worker=10)
    for store, held in ((1000 * MIB, 20 * MIB), (50 * MIB, 10 * MIB)):
        transport = choose_transport(config, num_workers=2, num_nodes=2, object_store_bytes=store)
        assert transport.held_bytes == held


@pytest.mark.parametrize("wanted", ["auto", "object_store"])
def test_an_unknown_store_is_taken_to_hold_what_the_workers_may(wanted: str) -> None:
    config = ClusterConfig(memory_mib_per_worker=10, transport=wanted)
    transport = choose_transport(config, num_workers=3, num_nodes=1, object_store_bytes=None)
    assert transport.held_bytes == 30 * MIB
    assert "Ray was not asked" in transport.reason
    assert transport.waves([10**15, 3]) == ([] if wanted == "auto" else [[0, 1]])


def test_waves_keep_the_order_and_the_bound() -> None:
    transport = choose_transport(
        ClusterConfig(), num_workers=2, num_nodes=2, object_store_bytes=500
    )
    assert transport.wave_bytes == 100
    assert transport.waves([60, 30, 20, 101, 80, 1]) == [[0, 1], [2, 4], [5]]
    assert transport.waves([]) == []
    assert replace(transport, route="shared_files").waves([60]) == []


def test_a_bundle_fits_a_single_machine() -> None:
    transport = choose_transport(
        ClusterConfig(), num_workers=9, num_nodes=10, object_store_bytes=1000
    )
    assert transport.waves([41, 40, 39]) == [[1, 2]]


def _lengths(num_rows: int, **changes: float) -> list[int]:
    settings = {"num_pieces": 2, "row_bytes": 2048, "num_workers": 4, "memory_bytes": 1e9}
    spans = cut_spans(num_rows, **(settings | changes))
    assert [row for span in spans for row in range(span.start, span.stop)] == list(range(num_rows))
    return [span.stop - span.start for span in spans]


def test_spans_are_enough_for_all_workers() -> None:
    assert _lengths(10_000) == [1250] * 8
    assert _lengths(0) == []


def test_pieces_are_large() -> None:
    assert len(_lengths(10_000, num_pieces=8)) == 2
    assert len(_lengths(10_000, num_pieces=50)) == 1


def test_a_span_takes_half_of_the_memory() -> None:
    assert max(_lengths(10_000, num_pieces=50, memory_bytes=2048 * 200)) <= 100
