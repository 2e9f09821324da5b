"""The cluster table of one task: what the sampler, the loss and the kNC rules read.

Legend: M clusters, D embedding, N samples, C classes, R neighbours and S siblings of a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from clustering.errors import ClusterError
from data_shards.errors import DataError

_DTYPES: Mapping[str, tuple[type[np.generic], int]] = {
    "centroids": (np.float32, 2),
    "class_of": (np.int64, 1),
    "member_ptr": (np.int64, 1),
    "member_ids": (np.int64, 1),
    "neighbours": (np.int64, 2),
    "siblings": (np.int64, 2),
    "spread": (np.float32, 1),
    "concentration": (np.float32, 1),
}
"""Arrays of a table -> (dtype, number of dimensions)."""

_UNIT_TOLERANCE = 1e-3
_BLOCK_CLUSTERS = 2048  # summed at a time, in float64: 8 MiB at 512 dimensions


@dataclass(frozen=True, eq=False)
class ClusterTable:
    """The clusters of every class, sorted by class; classes are 0 .. C - 1 without a gap."""

    version: int
    """The training step whose weights made the embeddings."""
    task: str
    centroids: npt.NDArray[np.float32]
    """(M, D) unit rows: the direction of the mean of the members."""
    class_of: npt.NDArray[np.int64]
    """(M,) class of each cluster, ascending."""
    member_ptr: npt.NDArray[np.int64]
    """(M + 1,) cluster j owns `member_ids[member_ptr[j] : member_ptr[j + 1]]`."""
    member_ids: npt.NDArray[np.int64]
    """(N,) sample ids, each once, ascending within a cluster."""
    neighbours: npt.NDArray[np.int64]
    """(M, R) nearest clusters of other classes, nearest first; -1 where there is none left."""
    siblings: npt.NDArray[np.int64]
    """(M, S) nearest other clusters of the same class, nearest first; -1 where none is left."""
    spread: npt.NDArray[np.float32]
    """(M,) mean angle between members and centroid, in radians."""
    concentration: npt.NDArray[np.float32]
    """(M,) length of the mean of the members, in [0, 1]; 1 = all members are the same."""
    stats: Mapping[str, float | int | str]
    """How the table was made and how good it is; goes into JSON."""

    @property
    def num_clusters(self) -> int:
        """M."""
        return len(self.class_of)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.centroids.shape[1])

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.class_of[-1]) + 1

    @property
    def num_samples(self) -> int:
        """N."""
        return len(self.member_ids)

    @property
    def cluster_sizes(self) -> npt.NDArray[np.int64]:
        """(M,) number of samples of each cluster."""
        return np.diff(self.member_ptr)

    @property
    def class_sizes(self) -> npt.NDArray[np.int64]:
        """(C,) number of samples of each class."""
        sizes: npt.NDArray[np.int64] = np.add.reduceat(self.cluster_sizes, self._class_starts)
        return sizes

    def members(self, cluster: int) -> npt.NDArray[np.int64]:
        """Sample ids of a cluster, ascending."""
        return self.member_ids[self.member_ptr[cluster] : self.member_ptr[cluster + 1]]

    def clusters_of_class(self, class_: int) -> npt.NDArray[np.int64]:
        """Numbers of the clusters of a class, ascending."""
        first, end = np.searchsorted(self.class_of, (class_, class_ + 1))
        return np.arange(first, end)

    def clusters_of_samples(self, sample_ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The cluster of each sample: the member lists read from the samples' side.

        Args:
            sample_ids: (B,) integers.

        Returns:
            (B,) int64, 0 .. M - 1.

        Raises:
            DataError: they are not integers of shape (B,), or a sample is in no cluster.
        """
        if sample_ids.ndim != 1 or sample_ids.dtype.kind not in "iu":
            raise DataError(
                f"sample_ids must be integers of shape (B,), got {sample_ids.dtype} of shape "
                f"{sample_ids.shape}"
            )
        ids, clusters = self._samples
        places = np.minimum(np.searchsorted(ids, sample_ids), len(ids) - 1)
        known = ids[places] == sample_ids
        if not known.all():
            unknown = sample_ids[np.argmin(known)]
            raise DataError(
                f"sample {unknown} is in no cluster of table {self.version} of task {self.task}; "
                "cluster the snapshot again"
            )
        return clusters[places]

    @cached_property
    def _samples(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(N,) sample ids, ascending, and (N,) the cluster of each."""
        order = np.argsort(self.member_ids, kind="stable")
        clusters = np.repeat(np.arange(self.num_clusters), self.cluster_sizes)
        return self.member_ids[order], clusters[order]

    def class_means(self) -> npt.NDArray[np.float32]:
        """Directions of the mean embedding of each class; computed once.

        Exact: a cluster's members sum up to size x concentration x centroid.

        Returns:
            (C, D) float32 unit rows, read-only. A class whose members cancel out gets its first
            centroid.
        """
        return self._class_means

    @cached_property
    def _class_means(self) -> npt.NDArray[np.float32]:
        weights = self.cluster_sizes * self.concentration.astype(np.float64)
        class_sizes = self.class_sizes
        ends = np.append(self._class_starts, self.num_clusters)
        means = np.empty((self.num_classes, self.dim), dtype=np.float32)
        # Whole classes, so a block may exceed its size by the clusters of its last class.
        firsts = np.flatnonzero(np.diff(ends[:-1] // _BLOCK_CLUSTERS, prepend=-1)).tolist()
        for first, end in zip(firsts, [*firsts[1:], self.num_classes], strict=True):
            own, clusters = slice(first, end), slice(ends[first], ends[end])
            centroids = self.centroids[clusters]
            starts = ends[first : end + 1] - ends[first]
            sums = csr_matrix((weights[clusters], np.arange(len(centroids)), starts)) @ centroids
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            cancelled = lengths < 1e-6 * class_sizes[own, np.newaxis]
            directions = sums / np.where(cancelled, 1.0, lengths)
            means[own] = np.where(cancelled, centroids[starts[:-1]], directions)
        means.setflags(write=False)
        return means

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays by field name; `from_arrays` turns them back."""
        return {name: getattr(self, name) for name in _DTYPES}

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, npt.NDArray[Any]],
        version: int,
        task: str,
        stats: Mapping[str, float | int | str],
    ) -> ClusterTable:
        """Make a table of the arrays that `arrays` returns; does not validate.

        Raises:
            ClusterError: when an array is missing or unknown.
        """
        if set(arrays) != set(_DTYPES):
            raise ClusterError(
                f"cluster table {version} of task {task}: got arrays {sorted(arrays)}, "
                f"expected {sorted(_DTYPES)}, those of this release; "
                "cluster the snapshot again"
            )
        return cls(version=version, task=task, stats=dict(stats), **arrays)

    def validate(self) -> None:
        """Check the invariants that every reader relies on.

        Raises:
            ClusterError: naming the first broken invariant.
        """
        self._check_shapes()
        self._check_members()
        self._check_geometry()
        self._check_list("neighbours", of_own_class=False)
        self._check_list("siblings", of_own_class=True)

    @property
    def _class_starts(self) -> npt.NDArray[np.int64]:
        return np.searchsorted(self.class_of, np.arange(self.num_classes))

    def _check_shapes(self) -> None:
        for name, (dtype, ndim) in _DTYPES.items():
            array = getattr(self, name)
            self._require(
                array.dtype == dtype and array.ndim == ndim,
                f"{name} must be {np.dtype(dtype)} of {ndim} dimensions, "
                f"got {array.dtype}{array.shape}",
            )
        self._require(self.num_clusters >= 1, "there is no cluster")
        for name in _DTYPES:
            wanted = self.num_clusters + (name == "member_ptr")
            rows = len(getattr(self, name))
            self._require(
                name == "member_ids" or rows == wanted,
                f"{name} must have {wanted} rows, got {rows}",
            )

    def _check_members(self) -> None:
        steps = np.diff(self.class_of)
        self._require(
            self.class_of[0] == 0 and np.isin(steps, (0, 1)).all(),
            "class_of must ascend from 0 without a gap: every class has at least one cluster",
        )
        self._require(
            self.member_ptr[0] == 0 and self.member_ptr[-1] == self.num_samples,
            f"member_ptr must go from 0 to the {self.num_samples} samples, "
            f"got {self.member_ptr[0]}..{self.member_ptr[-1]}",
        )
        sizes = self.cluster_sizes
        self._require(sizes.min() >= 1, f"cluster {np.argmin(sizes)} has no member")
        ids = np.sort(self.member_ids)
        again = ids[1:] == ids[:-1]
        repeated = ids[np.argmax(again)] if again.any() else -1
        self._require(
            not again.any(),
            f"sample {repeated} is in {np.count_nonzero(ids == repeated)} clusters, expected one",
        )

    def _check_geometry(self) -> None:
        lengths = np.linalg.norm(self.centroids, axis=1)
        # A comparison with NaN is False, so this finds what is not finite too.
        unit = np.abs(lengths - 1.0) <= _UNIT_TOLERANCE
        self._require(
            bool(unit.all()),
            f"centroid {np.argmin(unit)} must have length 1, got {lengths[np.argmin(unit)]}",
        )
        for name, largest in (("spread", np.pi), ("concentration", 1.0)):
            values = getattr(self, name)
            fits = (values >= 0) & (values <= largest + 1e-6)
            self._require(
                bool(fits.all()),
                f"{name} must lie in [0, {largest:.4g}], cluster {np.argmin(fits)} has "
                f"{values[np.argmin(fits)]}",
            )

    def _check_list(self, name: str, *, of_own_class: bool) -> None:
        listed = getattr(self, name)
        there = listed != -1
        self._require(
            bool(((listed >= -1) & (listed < self.num_clusters)).all()),
            f"{name} must be clusters 0..{self.num_clusters - 1} or -1",
        )
        self._require(
            not (there[:, 1:] & ~there[:, :-1]).any(), f"{name} must have -1 only at the end"
        )
        same_class = self.class_of[listed] == self.class_of[:, np.newaxis]
        itself = listed == np.arange(self.num_clusters)[:, np.newaxis]
        wrong = there & (~same_class | itself if of_own_class else same_class)
        kind = "others of its own class" if of_own_class else "clusters of other classes"
        self._require(
            not wrong.any(),
            f"{name} of cluster {np.argmax(wrong.any(axis=1))} must be {kind}",
        )

    def _require(self, holds: bool | np.bool_, problem: str) -> None:
        if not holds:
            raise ClusterError(
                f"cluster table {self.version} of task {self.task} is broken: {problem}; "
                "cluster the snapshot again"
            )
