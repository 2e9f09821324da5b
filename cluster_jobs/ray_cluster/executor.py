"""The executor of the service's work on a Ray cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from cluster_jobs.machine import no_gpu_warning
from clustering.execution.ray_calls import run_calls
from clustering.execution.ray_workers import RayWorkers
from trainer.config.run_config import RunConfig

logger = logging.getLogger(__name__)

Work = TypeVar("Work")
Result = TypeVar("Result")


class RayExecutor:
    """The Ray cluster that this process is connected to: one call per work item, of one CPU."""

    def __init__(self, config: RunConfig, *, cpus: int = 0) -> None:
        """Prepare; nothing is asked of Ray yet.

        Args:
            config: patience with calls (`cluster`), and the share of a GPU that an item asks for
                (`launch.embed_gpus`), if the cluster has any.
            cpus: number of items at a time; 0 = all CPUs that the cluster has when the
                items are sent.
        """
        self._config = config
        self._cpus = cpus

    def run(
        self, function: Callable[[Work], Result], works: Sequence[Work]
    ) -> Iterator[tuple[int, Result]]:
        """See `cluster_jobs.service.executor.Executor`."""
        at_once, gpus = call_resources(self._cpus, self._config.launch.embed_gpus)
        return run_calls(
            function, works, num_at_once=at_once, config=self._config.cluster, num_gpus=gpus
        )

    def workers(
        self,
        class_sizes: Sequence[npt.NDArray[np.int64]],
        *,
        on_call: Callable[[], None],
    ) -> RayWorkers:
        """See `cluster_jobs.service.executor.Executor`."""
        return RayWorkers(self._config.cluster, class_sizes=class_sizes, on_call=on_call)


def call_resources(cpus: int, gpus: float) -> tuple[int, float]:
    """How many calls fit the connected Ray at a time, and the share of a GPU that each can have.

    Args:
        cpus: for them, one each; 0 = all that the cluster has now.
        gpus: wanted share, in [0, 1].
    """
    import ray

    resources = ray.cluster_resources()
    cpus = cpus or max(1, int(resources.get("CPU", 0)))
    there = float(resources.get("GPU", 0.0)) if gpus else 0.0
    if gpus and not there:
        logger.warning("%s", no_gpu_warning(gpus))
    if not there:
        return cpus, 0.0
    # A call stays on one GPU.
    return max(1, min(cpus, int(there) * int(1 / gpus))), gpus
