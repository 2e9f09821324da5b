"""How work reaches those who do it: this process, or the workers of a Ray cluster."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.execution.lanes import Job, run_in_lanes
from clustering.execution.plan import clusters_per_class
from clustering.execution.ray_tasks import Call, InputLostError, Kind, TaskRunner
from clustering.execution.sharded_kmeans import ShareWork, cluster_shares, divide, open_share
from clustering.execution.share_tasks import RayGroup
from clustering.execution.shuffle import Shuffle, cluster_pieces
from clustering.execution.transport import Transport
from clustering.kmeans.backends import BackendName, choose_backend, one_thread, stays_on_cpu
from clustering.kmeans.bundle import BundleResult, BundleWork, cluster_bundle
from clustering.kmeans.one_class import LocalGroup
from data_shards.features.embedding_shard import EmbeddingShardInfo, check_vectors

# `ray` is imported in functions: it reads its environment then, which a job sets up first.

logger = logging.getLogger(__name__)

_MIB = 2**20
_GPU_UNITS = 10_000
_LEAST_CHECKED_BYTES = 16 * _MIB  # by a task: it takes longer than to send one


@dataclass(frozen=True, kw_only=True)
class WorkList:
    """All that is to be done for a table."""

    folder: str
    """The embedding shards, by a path that every worker sees."""
    shards: tuple[EmbeddingShardInfo, ...]
    """Whose vectors nobody has compared with their checksums yet."""
    dim: int
    sharded: Sequence[BundleWork]
    """Of one class each, which several workers divide."""
    lanes: Mapping[int, int]
    """Over how many workers each of these classes is divided; the clusters do not depend on it."""
    bundles: Sequence[BundleWork]
    transport: Transport

    @property
    def num_classes(self) -> int:
        """Of all works."""
        return sum(len(work.classes) for work in (*self.sharded, *self.bundles))

    @property
    def waves(self) -> list[list[int]]:
        """Bundles, by number, whose rows go through the object store together."""
        return self.transport.waves([4 * self.dim * len(work.positions) for work in self.bundles])


Done = tuple[BundleWork, BundleResult]
"""A bundle, or a class that was divided, and its clusters."""


class Workers(Protocol):
    """Whoever clusters."""

    @property
    def num_workers(self) -> int:
        """Bundles that are clustered at a time."""

    @property
    def num_nodes(self) -> int:
        """Machines that they are on."""

    @property
    def object_store_bytes(self) -> int:
        """Of all of them together; 0 if they have none."""

    @property
    def backend(self) -> BackendName:
        """Who compares rows with centroids, the same for all."""

    @property
    def seconds(self) -> float:
        """Time that all workers spent on checking and moving rows so far."""

    def run(self, works: WorkList) -> Iterator[Done]:
        """Do everything; yields every bundle and divided class once, in any order.

        Raises:
            ClusterError: when something fails by itself, or is lost or late too often.
            DataError: when a shard is damaged or cannot be read.
        """


class LocalWorker:
    """This process, one class after the other."""

    num_workers = 1
    num_nodes = 1
    object_store_bytes = 0
    seconds = 0.0

    def __init__(self, config: ClusterConfig) -> None:
        """Choose the backend.

        Raises:
            ClusterError: when the one of the settings does not work here.
        """
        self.backend: BackendName = choose_backend(config.backend)

    def run(self, works: WorkList) -> Iterator[Done]:
        """See `Workers`. Rows beyond the memory of a worker are read anew when needed."""
        _check_shards(works.folder, works.shards)
        for work in works.sharded:
            (share,) = divide(work, 1)
            with one_thread():
                group = LocalGroup((open_share(share),), len(work.positions), works.dim)
                yield work, cluster_shares(work, group)
        for work in works.bundles:
            yield work, cluster_bundle(work)


class RayWorkers:
    """Tasks of one CPU each on the Ray cluster that this process is connected to."""

    def __init__(
        self,
        config: ClusterConfig,
        *,
        class_sizes: Sequence[npt.NDArray[np.int64]] | None = None,
        on_task: Callable[[], None] = lambda: None,
    ) -> None:
        """Look what there is.

        Args:
            config: how many workers, their backend, and patience with them.
            class_sizes: (C,) rows of each class, of every task that will be clustered: backend
                auto leaves machines without a GPU aside only if a class is large enough for one.
                None: that is not known.
            on_task: called whenever a task has ended well, from several threads. A bundle is one
                task; a divided class takes many, of which nothing else is heard until its end.

        Raises:
            ClusterError: when there is no CPU, or the backend of the settings does not work where
                Ray has GPUs.
        """
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not _total("CPU", nodes):
            raise ClusterError("the Ray cluster has no CPU: start a worker node with at least one")
        if class_sizes is not None and config.backend == "auto" and _all_small(class_sizes, config):
            config = replace(config, backend="faiss-cpu")
        self.backend = _backend_of_nodes(config, nodes)
        self.num_nodes = len(nodes)
        self.object_store_bytes = _total("object_store_memory", nodes)
        if self.backend != "faiss-cpu":
            nodes = [node for node in nodes if node.get("GPU")]
        num_cpus = _total("CPU", nodes)
        if config.num_workers > num_cpus:
            logger.warning(
                "cluster.num_workers is %d, but the Ray cluster has %d CPUs%s: using those",
                config.num_workers,
                num_cpus,
                "" if self.backend == "faiss-cpu" else " on machines with a GPU",
            )
        self.num_workers = min(config.num_workers or num_cpus, num_cpus)
        self.seconds = 0.0
        self._config = config
        self._on_task = on_task
        on_gpu = self.backend != "faiss-cpu"
        self._num_gpus = gpu_share(self.num_workers, _total("GPU", nodes)) if on_gpu else 0.0

    def run(self, works: WorkList) -> Iterator[Done]:
        """See `Workers`. All checks come first: damaged rows would fail in stranger ways."""
        runner = TaskRunner(self._config, num_gpus=self._num_gpus, on_answer=self._on_task)
        jobs = _Jobs(works, runner, self.num_workers)
        for phase in (jobs.checks(), jobs.clustering()):
            for end in run_in_lanes(phase, self.num_workers, stop=runner.stop):
                if isinstance(end, float):
                    self.seconds += end
                else:
                    yield end


def gpu_share(num_workers: int, num_gpus: int) -> float:
    """Share of a GPU that a task asks for, so that all workers have one at a time.

    Args:
        num_workers: at a time, >= 1.
        num_gpus: of the whole cluster, >= 1.

    Returns:
        In (0, 1]: one by the number of workers of a GPU, in Ray's units of 0.0001, rounded down so
        that so many fit.
    """
    return _GPU_UNITS // math.ceil(num_workers / num_gpus) / _GPU_UNITS


def _total(resource: str, nodes: Sequence[Mapping[str, float]]) -> int:
    return int(sum(node.get(resource, 0) for node in nodes))


def _all_small(class_sizes: Sequence[npt.NDArray[np.int64]], config: ClusterConfig) -> bool:
    """Whether no class would be compared on a GPU."""
    return all(
        np.all(stays_on_cpu("torch-gpu", sizes, clusters_per_class(sizes, config)))
        for sizes in class_sizes
    )


def _backend_of_nodes(config: ClusterConfig, nodes: Sequence[Mapping[str, float]]) -> BackendName:
    """What works where tasks get a GPU; the driver may be on a machine without one.

    Raises:
        ClusterError: the one that was asked for does not work there.
    """
    if config.backend == "faiss-cpu":
        return "faiss-cpu"
    if not _total("GPU", nodes):  # a worker without a GPU of Ray's sees none
        if config.backend == "auto":
            return "faiss-cpu"
        raise ClusterError(
            f"cluster.backend is {config.backend}, but the Ray cluster has no GPU: start Ray on a "
            "machine with one (clmle run does with launch.embed_gpus > 0), or set it to auto"
        )
    # Asks for the least share: others may be at work on all GPUs.
    chosen: BackendName = TaskRunner(config, num_gpus=1 / _GPU_UNITS).run_one(
        _CHOOSE, Call("looking for a backend that works on a GPU", (config.backend,))
    )
    return chosen


class _Jobs:
    """A work list as jobs, each of which keeps one or more workers busy."""

    def __init__(self, works: WorkList, runner: TaskRunner, num_workers: int) -> None:
        self._works = works
        self._runner = runner
        self._num_workers = num_workers
        self._share_bytes = works.transport.held_bytes / num_workers

    def checks(self) -> Iterator[Job[Done | float]]:
        """Of the shards; they answer with the seconds that they took."""
        for shards in _groups(self._works.shards, 4 * self._num_workers):
            yield Job(partial(self._check, shards))

    def clustering(self) -> Iterator[Job[Done | float]]:
        """Divided classes, then bundles; those that take others' rows come after them."""
        works = self._works
        for work in works.sharded:
            lanes = works.lanes[int(work.classes[0])]
            yield Job(partial(self._divided, work, lanes), lanes)
        waves = works.waves
        moved = {number for wave in waves for number in wave}
        for wave in waves:
            yield from self._wave([works.bundles[number] for number in wave])
        for number, work in enumerate(works.bundles):
            if number not in moved:
                yield Job(partial(self._bundle, work))

    def _check(self, shards: Sequence[EmbeddingShardInfo]) -> float:
        call = Call(f"checking {shards[0].name}", (self._works.folder, shards))
        return float(self._runner.run_one(_CHECK, call))

    def _bundle(self, work: BundleWork) -> Done:
        return work, self._runner.run_one(_CLUSTER, Call(str(work), (work,)))

    def _wave(self, bundles: Sequence[BundleWork]) -> Iterator[Job[Done | float]]:
        shuffle = Shuffle(
            self._works.folder,
            [work.positions for work in bundles],
            dim=self._works.dim,
            num_workers=self._num_workers,
            memory_bytes=bundles[0].config.memory_mib_per_worker * _MIB,
        )
        for span in range(len(shuffle.spans)):
            yield Job(partial(shuffle.read, self._runner, [span]))
        for party, work in enumerate(bundles):
            yield Job(partial(self._moved_bundle, work, shuffle, party))

    def _moved_bundle(self, work: BundleWork, shuffle: Shuffle, party: int) -> Done:
        call = Call(str(work), (work, *shuffle.pieces(party)))
        try:
            return work, self._runner.run_one(_CLUSTER_PIECES, call)
        except InputLostError as error:
            logger.warning("%s: its rows were lost (%s); reading them again", work, error)
            return self._bundle(work)
        finally:
            shuffle.forget(party)

    def _divided(self, work: BundleWork, num_shares: int) -> Done:
        shares = [
            replace(share, memory_bytes=self._share_bytes)
            for share in divide(work, num_shares)
            if len(share.positions)
        ]
        for attempt in range(work.config.max_retries + 1):
            try:
                pieces, seconds = self._pieces_of_shares(work, shares)
                group = RayGroup(self._runner, shares, self._works.dim, pieces)
                group.seconds += seconds
                del pieces  # the group holds the rows from here on
                return work, cluster_shares(work, group)
            except InputLostError as error:
                if attempt == work.config.max_retries:
                    raise ClusterError(
                        f"{work}: its rows were lost ({error}), in the last of {attempt + 1} "
                        "attempts; look at memory and load of the Ray nodes, or raise "
                        "cluster.max_retries"
                    ) from error
                logger.warning("%s: its rows were lost (%s); trying again", work, error)
        raise AssertionError("unreachable")

    def _pieces_of_shares(
        self, work: BundleWork, shares: Sequence[ShareWork]
    ) -> tuple[Sequence[Sequence[object]], float]:
        """References to the rows that each share holds, and the seconds that reading them took.

        None where it reads them itself.
        """
        held = [share.positions[: share.num_held(self._works.dim)] for share in shares]
        if self._works.transport.route == "shared_files" or not sum(map(len, held)):
            return [()] * len(shares), 0.0
        shuffle = Shuffle(
            work.folder,
            held,
            dim=self._works.dim,
            num_workers=len(shares),
            memory_bytes=work.config.memory_mib_per_worker * _MIB,
        )
        spans = range(len(shuffle.spans))
        seconds = shuffle.read(self._runner, spans, num_at_once=len(shares))
        return [shuffle.pieces(party) for party in range(len(shares))], seconds


def _groups(
    shards: Sequence[EmbeddingShardInfo], most: int
) -> Iterator[Sequence[EmbeddingShardInfo]]:
    """Shards that a task checks: neighbours, of about equal bytes."""
    total = sum(shard.num_bytes for shard in shards)
    size = max(_LEAST_CHECKED_BYTES, total / most)
    group_of = np.cumsum([0, *(shard.num_bytes for shard in shards[:-1])]) // size
    for group in np.unique(group_of):
        yield [shards[number] for number in np.flatnonzero(group_of == group).tolist()]


def _check_shards(folder: str, shards: Sequence[EmbeddingShardInfo]) -> float:
    """Compare files of vectors with their checksums; the seconds that it took."""
    started = time.monotonic()
    for shard in shards:
        check_vectors(folder, shard)
    return time.monotonic() - started


_CHOOSE = Kind(function=choose_backend, on_gpu=True)
_CHECK = Kind(function=_check_shards)
_CLUSTER = Kind(function=cluster_bundle, on_gpu=True)
_CLUSTER_PIECES = Kind(function=cluster_pieces, on_gpu=True)
