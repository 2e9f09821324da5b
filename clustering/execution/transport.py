"""How rows reach the worker that clusters them: by shared files, or by Ray's object store.

Pure. The table is the same either way; the choice decides who reads which file how often.

Legend: N rows, D embedding, W workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clustering.config import ClusterConfig

Route = Literal["object_store", "shared_files"]
"""shared_files: a worker reads its rows from memory-mapped shards. object_store: shards are read
once, from the first row to the last, and each worker is sent its rows."""

# Ray spills to disk from 0.8 of a store. At most two waves are in it at a time, as the rows of one
# are read while the last bundles of the one before are clustered. Held rows that do not come from
# files are in it twice while they are put in order.
_WAVE_FRACTION = 0.2
_HELD_FRACTION: dict[Route, float] = {"shared_files": 0.6, "object_store": 0.2}
_LARGEST_FRACTION = 0.4  # of one machine's store, for the rows of one bundle
# Ray keeps a value below 100 KB in the process that asked for it, which is the driver. With pieces
# of this mean size, the driver holds at most a tenth of a wave.
_PIECE_BYTES = 2**20
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Transport:
    """How rows are moved, decided before any is."""

    route: Route
    reason: str
    """Why, for a person."""
    wave_bytes: float
    """Of rows that are in the object store at a time, for bundles; briefly twice that."""
    largest_bytes: float
    """Of a bundle that goes through the object store: it must fit a single machine."""
    held_bytes: float
    """Of rows of partitioned classes that are in the object store at a time."""

    def waves(self, num_bytes: Sequence[int]) -> list[list[int]]:
        """Bundles by their numbers, in order, in waves of at most `wave_bytes`.

        Args:
            num_bytes: of the rows of each bundle.

        Returns:
            The waves; none by shared files. A bundle that is too large for a wave is in none.
        """
        if self.route == "shared_files":
            return []
        waves: list[list[int]] = []
        room = 0.0
        for number, size in enumerate(num_bytes):
            if size > min(self.wave_bytes, self.largest_bytes):
                continue
            if size > room:
                waves.append([])
                room = self.wave_bytes
            waves[-1].append(number)
            room -= size
        return waves


def choose_transport(
    config: ClusterConfig, *, num_workers: int, num_nodes: int, object_store_bytes: int | None
) -> Transport:
    """Choose how rows are moved.

    Args:
        config: the wanted transport, and the memory of a worker.
        num_workers: W.
        num_nodes: machines that the workers are on.
        object_store_bytes: of all their object stores together; 0 without Ray; None if not known,
            which counts as large enough.
    """
    route: Route = "shared_files"
    store_bytes = math.inf if object_store_bytes is None else object_store_bytes
    if not store_bytes:
        reason = "there is no object store"
    elif config.transport != "auto":
        route, reason = config.transport, "as cluster.transport says"
    elif num_nodes > 1:
        route, reason = "object_store", f"{num_nodes} machines: each file is read by one of them"
    else:
        reason = "one machine: its page cache serves all workers"
    if object_store_bytes is None:
        reason += "; Ray was not asked: its object store is assumed to be large enough"
    return Transport(
        route=route,
        reason=reason,
        wave_bytes=_WAVE_FRACTION * store_bytes,
        largest_bytes=_LARGEST_FRACTION * store_bytes / num_nodes,
        held_bytes=min(
            _HELD_FRACTION[route] * store_bytes,
            num_workers * config.memory_mib_per_worker * _MIB,
        ),
    )


def cut_spans(
    num_rows: int,
    *,
    num_pieces: int,
    row_bytes: int,
    num_workers: int,
    memory_bytes: float,
) -> list[slice]:
    """Cut rows into spans, each of which one call reads.

    Args:
        num_rows: N.
        num_pieces: pieces that a span is split into, >= 1.
        row_bytes: 4 D.
        num_workers: W.
        memory_bytes: of a worker.

    Returns:
        Ranges of the rows: enough for all workers, but not so many that the mean piece is below
        1 MiB, unless a span would then take more than half of the memory.
    """
    most = num_rows * row_bytes // (num_pieces * _PIECE_BYTES)
    least = math.ceil(2 * num_rows * row_bytes / memory_bytes)
    num_spans = min(num_rows, max(1, least, min(2 * num_workers, most)))
    ends = [num_rows * (number + 1) // num_spans for number in range(num_spans)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
