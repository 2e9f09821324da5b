"""The workers of a Ray cluster: how many there are, and what each is sent when."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from clustering.config import ClusterConfig
from clustering.errors import ClusterError
from clustering.execution.partition_calls import RayPartitions
from clustering.execution.partitioned_kmeans import (
    PartitionWork,
    cluster_partitions,
    partition_class,
)
from clustering.execution.plan import clusters_per_class
from clustering.execution.ray_calls import Call, CallRunner, InputLostError, RemoteFunction
from clustering.execution.ray_disk import lost_too_often, spilling
from clustering.execution.schedule import Job, run_jobs
from clustering.execution.shuffle import Shuffle, cluster_pieces
from clustering.execution.workers import Done, WorkList, check_shards
from clustering.kmeans.backends import BackendName, choose_backend, stays_on_cpu
from clustering.kmeans.bundle import BundleWork, cluster_bundle
from data_shards.features.embedding_shard import EmbeddingShardInfo

# `ray` is imported in functions: it reads its environment then, which a job sets up first.

logger = logging.getLogger(__name__)

_MIB = 2**20
_GPU_UNITS = 10_000
_LEAST_CHECKED_BYTES = 16 * _MIB  # a call: sending one takes longer than checking less


class RayWorkers:
    """Calls of one CPU each on the Ray cluster that this process is connected to."""

    def __init__(
        self,
        config: ClusterConfig,
        *,
        class_sizes: Sequence[npt.NDArray[np.int64]] | None = None,
        on_call: Callable[[], None] = lambda: None,
    ) -> None:
        """Look at the cluster.

        Args:
            config: number of workers, backend, time limit and retries.
            class_sizes: (C,) rows of each class, of every task that will be clustered: with backend
                auto, machines without a GPU are left out only if a class is large enough for a
                GPU. None if that is not known.
            on_call: called whenever a call has returned, from several threads. A bundle is one
                call; a partitioned class takes many, and is yielded only at its end.

        Raises:
            ClusterError: when there is no CPU, or the backend of the settings does not work where
                Ray has GPUs.
        """
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not _total("CPU", nodes):
            raise ClusterError("the Ray cluster has no CPU; start a worker node with at least one")
        if class_sizes is not None and config.backend == "auto" and _all_small(class_sizes, config):
            config = replace(config, backend="faiss-cpu")
        self.backend = _backend_of_nodes(config, nodes)
        self.num_nodes = len(nodes)
        self.object_store_bytes = _total("object_store_memory", nodes)
        on_gpu = self.backend != "faiss-cpu"
        if on_gpu:
            nodes = [node for node in nodes if node.get("GPU")]
        num_cpus = _total("CPU", nodes)
        if config.num_workers > num_cpus:
            logger.warning(
                "cluster.num_workers is %d, but the Ray cluster has %d CPUs%s: using those",
                config.num_workers,
                num_cpus,
                " on machines with a GPU" if on_gpu else "",
            )
        self.num_workers = min(config.num_workers or num_cpus, num_cpus)
        self.seconds = 0.0
        self._config = config
        self._on_call = on_call
        self._num_gpus = gpus_per_call(self.num_workers, _total("GPU", nodes)) if on_gpu else 0.0

    def run(self, works: WorkList) -> Iterator[Done]:
        """See `Workers`. All checks come first: damaged rows would fail in stranger ways."""
        runner = CallRunner(self._config, num_gpus=self._num_gpus, on_answer=self._on_call)
        jobs = _Jobs(works, runner, self.num_workers)
        with spilling():
            for phase in (jobs.checks(), jobs.clustering()):
                for end in run_jobs(phase, self.num_workers, stop=runner.stop):
                    self.seconds += end.seconds
                    yield from end.done


def gpus_per_call(num_workers: int, num_gpus: int) -> float:
    """Fraction of a GPU that a call asks for, so that all workers have one at a time.

    Args:
        num_workers: at a time, >= 1.
        num_gpus: of the whole cluster, >= 1.

    Returns:
        In (0, 1]: one divided by the workers of a GPU, in Ray's units of 0.0001, rounded down so
        that all of them fit.
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
    """What works where calls get a GPU; the driver may be on a machine without one.

    Raises:
        ClusterError: the backend of the settings does not work there.
    """
    if config.backend == "faiss-cpu":
        return "faiss-cpu"
    if not _total("GPU", nodes):  # a worker without a GPU of Ray's sees none
        if config.backend == "auto":
            return "faiss-cpu"
        raise ClusterError(
            f"cluster.backend is {config.backend}, but the Ray cluster has no GPU; start Ray on a "
            "machine with one (clmle run does with launch.embed_gpus > 0), or set it to auto"
        )
    # Asks for the smallest fraction: others may be using all GPUs.
    chosen: BackendName = CallRunner(config, num_gpus=1 / _GPU_UNITS).run_one(
        _CHOOSE, Call("looking for a backend that works on a GPU", (config.backend,))
    )
    return chosen


@dataclass(frozen=True)
class _End:
    """What a job has done."""

    seconds: float = 0.0
    """That workers spent on checking or moving rows."""
    done: tuple[Done, ...] = ()


class _Jobs:
    """A work list as jobs, each of which keeps one or more workers busy."""

    def __init__(self, works: WorkList, runner: CallRunner, num_workers: int) -> None:
        self._works = works
        self._runner = runner
        self._num_workers = num_workers
        self._partition_bytes = works.transport.held_bytes / num_workers

    def checks(self) -> Iterator[Job[_End]]:
        """Compare the shards with their checksums."""
        for shards in _groups(self._works.shards, 4 * self._num_workers):
            yield Job(partial(self._check, shards))

    def clustering(self) -> Iterator[Job[_End]]:
        """Partitioned classes, then bundles by the object store, then those from files."""
        works = self._works
        for work in works.partitioned:
            number = works.num_partitions[int(work.classes[0])]
            yield Job(partial(self._partitioned, work, number), number)
        waves = works.waves
        moved = {number for wave in waves for number in wave}
        for wave in waves:
            yield from self._wave([works.bundles[number] for number in wave])
        for number, work in enumerate(works.bundles):
            if number not in moved:
                yield Job(partial(self._bundle, work))

    def _check(self, shards: Sequence[EmbeddingShardInfo]) -> _End:
        call = Call(f"checking {shards[0].name}", (self._works.folder, shards))
        return _End(seconds=float(self._runner.run_one(_CHECK, call)))

    def _bundle(self, work: BundleWork) -> _End:
        return _End(done=((work, self._runner.run_one(_CLUSTER, Call(str(work), (work,)))),))

    def _wave(self, bundles: Sequence[BundleWork]) -> Iterator[Job[_End]]:
        shuffle = Shuffle(
            self._works.folder,
            [work.positions for work in bundles],
            dim=self._works.dim,
            num_workers=self._num_workers,
            memory_bytes=bundles[0].config.memory_mib_per_worker * _MIB,
        )
        for span in range(len(shuffle.spans)):
            yield Job(partial(self._read_span, shuffle, span))
        for receiver, work in enumerate(bundles):
            yield Job(partial(self._moved_bundle, work, shuffle, receiver))

    def _read_span(self, shuffle: Shuffle, span: int) -> _End:
        return _End(seconds=shuffle.read(self._runner, [span]))

    def _moved_bundle(self, work: BundleWork, shuffle: Shuffle, receiver: int) -> _End:
        call = Call(str(work), (work, *shuffle.pieces(receiver)))
        try:
            return _End(done=((work, self._runner.run_one(_CLUSTER_PIECES, call)),))
        except InputLostError as error:
            logger.warning("%s: its rows were lost (%s); reading them again", work, error)
            return self._bundle(work)
        finally:
            shuffle.forget(receiver)

    def _partitioned(self, work: BundleWork, num_partitions: int) -> _End:
        parts = [
            replace(part, memory_bytes=self._partition_bytes)
            for part in partition_class(work, num_partitions)
            if len(part.positions)
        ]
        for attempt in range(work.config.max_retries + 1):
            try:
                pieces, seconds = self._pieces(work, parts)
                partitions = RayPartitions(self._runner, parts, self._works.dim, pieces)
                partitions.seconds += seconds
                del pieces  # only the partitions refer to the rows from here on
                return _End(done=((work, cluster_partitions(work, partitions)),))
            except InputLostError as error:
                if attempt == work.config.max_retries:
                    raise lost_too_often(
                        f"{work}: its rows were lost ({error})", attempt + 1
                    ) from error
                logger.warning("%s: its rows were lost (%s); trying again", work, error)
        raise AssertionError("unreachable")

    def _pieces(
        self, work: BundleWork, parts: Sequence[PartitionWork]
    ) -> tuple[Sequence[Sequence[object]], float]:
        """References to the rows that each partition holds, and the seconds to read them.

        No references for partitions that read their rows themselves.
        """
        held = [part.positions[: part.num_held(self._works.dim)] for part in parts]
        if self._works.transport.route == "shared_files" or not sum(map(len, held)):
            return [()] * len(parts), 0.0
        shuffle = Shuffle(
            work.folder,
            held,
            dim=self._works.dim,
            num_workers=len(parts),
            memory_bytes=work.config.memory_mib_per_worker * _MIB,
        )
        spans = range(len(shuffle.spans))
        seconds = shuffle.read(self._runner, spans, num_at_once=len(parts))
        return [shuffle.pieces(receiver) for receiver in range(len(parts))], seconds


def _groups(
    shards: Sequence[EmbeddingShardInfo], most: int
) -> Iterator[Sequence[EmbeddingShardInfo]]:
    """The shards that each call checks: neighbours, of about equal bytes."""
    total = sum(shard.num_bytes for shard in shards)
    size = max(_LEAST_CHECKED_BYTES, total / most)
    group_of = np.cumsum([0, *(shard.num_bytes for shard in shards[:-1])]) // size
    for group in np.unique(group_of):
        yield [shards[number] for number in np.flatnonzero(group_of == group).tolist()]


_CHOOSE = RemoteFunction(function=choose_backend, on_gpu=True)
_CHECK = RemoteFunction(function=check_shards)
_CLUSTER = RemoteFunction(function=cluster_bundle, on_gpu=True)
_CLUSTER_PIECES = RemoteFunction(function=cluster_pieces, on_gpu=True)
