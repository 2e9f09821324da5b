"""The clusters of all bundles -> the arrays of one table.

Legend: N samples, P samples of a bundle, M clusters, m clusters of a bundle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.kmeans.bundle import BundleResult, BundleWork
from clustering.table.matching import matched_order
from clustering.table.table import ClusterTable
from data_shards.progress import OnStep, no_step

_NO_ROWS = np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class _Part:
    """The clusters of a bundle and their members, ready while other bundles are clustered."""

    result: BundleResult
    """Without the assignment."""
    member_ids: npt.NDArray[np.int64]
    """(P,) cluster after cluster, ascending within each."""
    sizes: npt.NDArray[np.int64]
    """(m,) of the clusters."""

    @classmethod
    def of(cls, work: BundleWork, result: BundleResult, ids: npt.NDArray[np.int64]) -> _Part:
        """Sort the rows of a bundle by cluster; within a class they are in the order of ids."""
        assignment = result.assignment
        if len(result.class_of) <= 2**16:
            assignment = assignment.astype(np.uint16)  # sorted in linear time
        order = np.argsort(assignment, kind="stable")
        return cls(
            replace(result, assignment=_NO_ROWS),
            ids[work.positions[order]],
            np.bincount(result.assignment, minlength=len(result.class_of)),
        )


def assemble(
    ids: npt.NDArray[np.int64],
    done: Iterable[tuple[BundleWork, BundleResult]],
    previous: ClusterTable | None,
    on_step: OnStep = no_step,
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, float]]:
    """Put all clusters in order of class, and the members of each in order of their id.

    Within a class, clusters take the order of the most similar ones of the previous table.

    Args:
        ids: (N,) sample ids by row number.
        done: the bundles and their clusters, in any order.
        previous: the table whose numbering is continued; None for the order of first members.
        on_step: called after each class is numbered, and each bundle's members are put in order.

    Returns:
        The arrays of a `ClusterTable` except neighbours and siblings; and stats of the work.
    """
    # Whatever a bundle allows by itself is done while workers are busy with others.
    parts = [_Part.of(work, result, ids) for work, result in done]
    results = [part.result for part in parts]
    class_of = np.concatenate([result.class_of for result in results])
    centroids = np.concatenate([result.centroids for result in results])
    order = np.argsort(class_of, kind="stable")
    if previous is not None:
        order = order[matched_order(centroids[order], class_of[order], previous, on_step)]
    sizes = np.concatenate([part.sizes for part in parts])
    work_stats = {
        "worker_seconds": sum(result.seconds for result in results),
        "iterations": sum(result.iterations for result in results),
    }
    arrays = {
        "class_of": class_of[order],
        "centroids": centroids[order],
        "spread": np.concatenate([result.spread for result in results])[order],
        "concentration": np.concatenate([result.concentration for result in results])[order],
        "member_ptr": np.concatenate([[0], np.cumsum(sizes[order])]),
        "member_ids": _members(parts, sizes, order, on_step),
    }
    return arrays, work_stats


def _members(
    parts: Sequence[_Part],
    sizes: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
    on_step: OnStep,
) -> npt.NDArray[np.int64]:
    """(N,) sample ids, cluster after cluster in their final order."""
    starts = np.empty(len(order), dtype=np.int64)
    starts[order] = np.cumsum(sizes[order]) - sizes[order]
    members = np.empty(int(sizes.sum()), dtype=np.int64)
    first = 0
    for part in parts:
        own = slice(first, first + len(part.sizes))
        # A cluster's members lie together before and after: only its start differs.
        shifts = starts[own] - (np.cumsum(part.sizes) - part.sizes)
        members[np.arange(len(part.member_ids)) + np.repeat(shifts, part.sizes)] = part.member_ids
        first = own.stop
        on_step()
    return members
