"""Finished classes of a clustering on disk, so that a restarted driver does not repeat them.

    DIR/<sha256>.safetensors   clusters of the classes of a bundle; named by its own checksum

A class is found again by everything that decides its clusters, never by who clustered it: with
another number of workers the same classes are in other bundles.

Legend: B classes of a bundle, P samples of them, D embedding, m clusters found.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from clustering.execution.workers import Done, Workers, WorkList
from clustering.kmeans.backends import BackendName, describe_backend
from clustering.kmeans.bundle import BundleResult, BundleWork
from clustering.settings import fixed_settings
from data_shards.atomic import atomic_file, clear_leftovers, sha256_of
from data_shards.progress import OnStep, no_step

logger = logging.getLogger(__name__)

_FORMAT = "clmle-bundle-1"
_SUFFIX = ".safetensors"
_KEY_BYTES = 32

Clusters = BundleResult
"""Of a single class."""


class BundleStore:
    """The finished classes of one task's embeddings. One process writes at a time."""

    def __init__(self, folder: Path, *, embeddings: str, on_step: OnStep = no_step) -> None:
        """Read what an earlier attempt has left; damaged files are ignored and removed.

        Args:
            folder: where the files lie; made when missing.
            embeddings: checksum of all embeddings of the task.
            on_step: called after each file is read, and each bundle looked up or written.
        """
        self._on_step = on_step
        self._folder = folder
        self._embeddings = embeddings
        self._found: dict[bytes, Clusters] = {}
        folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(folder)
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            arrays = _load(path)
            if arrays is not None:
                classes = split_classes(_result_in(arrays), arrays["class_sizes"])
                self._found.update(zip(_keys_in(arrays), classes, strict=True))
            on_step()

    def find(self, work: BundleWork) -> dict[int, Clusters]:
        """The classes of a bundle that are finished: number in the bundle -> its clusters."""
        keys = enumerate(self._keys(work))
        found = {number: self._found[key] for number, key in keys if key in self._found}
        self._on_step()
        return found

    def save(self, work: BundleWork, result: BundleResult) -> None:
        """Write the clusters of a bundle.

        Raises:
            DiskError: the disk is full, or fails.
        """
        keys = np.frombuffer(b"".join(self._keys(work)), dtype=np.uint8)
        arrays = {
            name: np.ascontiguousarray(value)
            for name, value in vars(result).items()
            if name not in ("iterations", "seconds")
        }
        content = save_arrays(
            {
                **arrays,
                "class_sizes": np.ascontiguousarray(work.class_sizes),
                "keys": keys.reshape(-1, _KEY_BYTES),
                "iterations": np.array([result.iterations]),
                "seconds": np.array([result.seconds]),
            }
        )
        name = hashlib.sha256(content).hexdigest() + _SUFFIX
        with atomic_file(self._folder / name, "finished classes to") as temporary:
            temporary.write_bytes(content)
        self._on_step()

    def _keys(self, work: BundleWork) -> list[bytes]:
        """A checksum of what decides the clusters, for each class."""
        settings = fixed_settings(work.config)
        backend = describe_backend(work.backend)
        common = [_FORMAT, self._embeddings, settings, work.seed, backend]
        start = hashlib.sha256(json.dumps(common, sort_keys=True).encode())
        keys = []
        for number in range(len(work.classes)):
            key = start.copy()
            numbers = (work.classes[number], work.class_sizes[number], work.num_clusters[number])
            key.update(np.array(numbers, dtype=np.int64).tobytes())
            if (previous := work.class_previous(number)) is not None:
                key.update(np.ascontiguousarray(previous).tobytes())
            keys.append(key.digest())
        return keys


class KeptWorkers:
    """Workers whose finished classes are kept in a store, and not clustered again."""

    def __init__(self, workers: Workers, store: BundleStore) -> None:
        self._workers = workers
        self._store = store
        self.num_workers = workers.num_workers
        self.num_nodes = workers.num_nodes
        self.object_store_bytes = workers.object_store_bytes
        self.backend: BackendName = workers.backend
        self.reused_classes = 0
        """Classes that were found in the store."""
        self.moved_bytes = 0
        """Sent to the workers, between them, or back: row numbers, rows, clusters."""

    @property
    def seconds(self) -> float:
        """Time that all workers have spent on checking and moving rows."""
        return self._workers.seconds

    def run(self, works: WorkList) -> Iterator[Done]:
        """Do what is not finished; yields every bundle and partitioned class once, in any order."""
        partitioned, bundles = (
            [_Begun.of(work, self._store.find(work)) for work in part]
            for part in (works.partitioned, works.bundles)
        )
        for begun in (*partitioned, *bundles):
            self.reused_classes += len(begun.found)
            if begun.rest is None:
                yield begun.work, begun.whole(None)
        begun_of = {id(begun.rest): begun for begun in (*partitioned, *bundles)}
        rest = replace(
            works,
            partitioned=[begun.rest for begun in partitioned if begun.rest is not None],
            bundles=[begun.rest for begun in bundles if begun.rest is not None],
        )
        for work, result in self._workers.run(rest):
            self._store.save(work, result)
            self.moved_bytes += _array_bytes(work) + _array_bytes(result)
            if works.transport.route == "object_store":
                self.moved_bytes += 4 * works.dim * len(work.positions)
            begun = begun_of[id(work)]
            yield begun.work, begun.whole(result)


@dataclass(frozen=True)
class _Begun:
    """A bundle of which some classes are finished."""

    work: BundleWork
    found: Mapping[int, Clusters]
    missing: tuple[int, ...]
    """Numbers, in the bundle, of the other classes."""
    rest: BundleWork | None
    """The work that is left; None if none is."""

    @classmethod
    def of(cls, work: BundleWork, found: Mapping[int, Clusters]) -> _Begun:
        missing = tuple(n for n in range(len(work.classes)) if n not in found)
        if not found:
            return cls(work, found, missing, work)
        return cls(work, found, missing, _subset(work, missing) if missing else None)

    def whole(self, result: BundleResult | None) -> BundleResult:
        """The clusters of all classes, given those of the rest."""
        classes = dict(self.found)
        if result is not None:
            if not classes:
                return result
            assert self.rest is not None
            parts = split_classes(result, self.rest.class_sizes)
            classes |= dict(zip(self.missing, parts, strict=True))
        return join_classes([classes[number] for number in sorted(classes)])


def split_classes(result: BundleResult, class_sizes: npt.NDArray[np.int64]) -> list[Clusters]:
    """Split the clusters of a bundle by class.

    Args:
        result: of the whole bundle.
        class_sizes: (B,) samples of each of its classes.

    Returns:
        The clusters of each class. The first has the iterations and seconds, which are known only
        for the whole bundle.
    """
    # Every class has a cluster, so a cluster of another class begins the next.
    starts = np.flatnonzero(np.diff(result.class_of, prepend=-1))
    cluster_ends = [*starts[1:].tolist(), len(result.class_of)]
    row_ends = np.cumsum(class_sizes)
    parts = []
    for number, (first, end) in enumerate(zip(starts.tolist(), cluster_ends, strict=True)):
        own = slice(first, end)
        rows = slice(int(row_ends[number] - class_sizes[number]), int(row_ends[number]))
        parts.append(
            BundleResult(
                class_of=result.class_of[own],
                centroids=result.centroids[own],
                spread=result.spread[own],
                concentration=result.concentration[own],
                assignment=result.assignment[rows] - np.int32(first),
                iterations=0 if number else result.iterations,
                seconds=0.0 if number else result.seconds,
            )
        )
    return parts


def join_classes(parts: Sequence[Clusters]) -> BundleResult:
    """Join the clusters of classes; the inverse of `split_classes`.

    Args:
        parts: of one class at least.
    """
    ends = np.cumsum([len(part.class_of) for part in parts])
    firsts = [0, *ends[:-1].tolist()]
    return BundleResult(
        class_of=np.concatenate([part.class_of for part in parts]),
        centroids=np.concatenate([part.centroids for part in parts]),
        spread=np.concatenate([part.spread for part in parts]),
        concentration=np.concatenate([part.concentration for part in parts]),
        assignment=np.concatenate(
            [part.assignment + np.int32(first) for part, first in zip(parts, firsts, strict=True)]
        ),
        iterations=sum(part.iterations for part in parts),
        seconds=sum(part.seconds for part in parts),
    )


def _subset(work: BundleWork, numbers: Sequence[int]) -> BundleWork:
    """Some classes of a bundle as a bundle."""
    chosen = np.array(numbers)
    rows = np.repeat(np.isin(np.arange(len(work.classes)), chosen), work.class_sizes)
    return replace(
        work,
        classes=work.classes[chosen],
        class_sizes=work.class_sizes[chosen],
        num_clusters=work.num_clusters[chosen],
        positions=work.positions[rows],
        previous=None if work.previous is None else tuple(work.previous[n] for n in numbers),
    )


def _load(path: Path) -> dict[str, npt.NDArray[Any]] | None:
    """The arrays of a file; None, and the file removed, if it is damaged."""
    try:
        if sha256_of(path) == path.stem:
            return dict(load_arrays(path.read_bytes()))
        problem = "its checksum is wrong"
    except (OSError, SafetensorError) as error:
        problem = str(error)
    logger.warning("%s is damaged (%s): its classes are clustered again", path, problem)
    path.unlink(missing_ok=True)
    return None


def _keys_in(arrays: Mapping[str, npt.NDArray[Any]]) -> list[bytes]:
    return [row.tobytes() for row in arrays["keys"]]


def _result_in(arrays: Mapping[str, npt.NDArray[Any]]) -> BundleResult:
    values = {n: a for n, a in arrays.items() if n not in ("keys", "class_sizes")}
    values["iterations"], values["seconds"] = (
        values[name].item() for name in ("iterations", "seconds")
    )
    return BundleResult(**values)  # type: ignore[arg-type]


def _array_bytes(thing: BundleWork | BundleResult) -> int:
    return sum(value.nbytes for value in vars(thing).values() if isinstance(value, np.ndarray))
