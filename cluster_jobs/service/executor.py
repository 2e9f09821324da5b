"""Where the service's work is done: on a Ray cluster, or in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from clustering.config import ClusterConfig
from clustering.execution.workers import LocalWorker, Workers

Work = TypeVar("Work")
Result = TypeVar("Result")


class Executor(Protocol):
    """Does work items, and provides the workers that cluster. Results do not depend on which."""

    def run(
        self, function: Callable[[Work], Result], works: Sequence[Work]
    ) -> Iterator[tuple[int, Result]]:
        """Do every work item.

        Args:
            function: what is done with an item; of an importable module, so that it can be sent.
            works: the items; `str(item)` names one in messages.

        Yields:
            (number of the item, result), in the order of completion.

        Raises:
            DataError: an item's data are damaged.
            ClusterError: an item failed by itself, or was lost or late too often.
        """

    def workers(
        self,
        class_sizes: Sequence[npt.NDArray[np.int64]],
        *,
        on_call: Callable[[], None],
    ) -> Workers:
        """The workers that cluster.

        Args:
            class_sizes: (C,) rows of each class, for every task that will be clustered.
            on_call: called whenever a part of the work has succeeded, from several threads;
                never by workers that cannot be lost.

        Raises:
            ClusterError: there are none, or the backend of the settings does not work there.
        """


class LocalExecutor:
    """This process, one item after another, without Ray: for little data."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config

    def run(
        self, function: Callable[[Work], Result], works: Sequence[Work]
    ) -> Iterator[tuple[int, Result]]:
        """See `Executor`."""
        threads = torch.get_num_threads()
        try:
            for number, work in enumerate(works):
                yield number, function(work)
        finally:
            torch.set_num_threads(threads)  # a work item takes one thread

    def workers(
        self,
        class_sizes: Sequence[npt.NDArray[np.int64]],
        *,
        on_call: Callable[[], None],
    ) -> Workers:
        """See `Executor`."""
        return LocalWorker(self._config)
