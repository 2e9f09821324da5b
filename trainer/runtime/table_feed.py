"""How cluster tables reach the ranks: requested, published by the service, switched to together.

Only rank 0 reads the store, and broadcasts what it finds. A snapshot on disk is the request.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from clustering.errors import ClusterError
from clustering.table import store
from clustering.table.table import ClusterTable
from data_shards.errors import ConfigError
from trainer.config.sections import RefreshConfig
from trainer.errors import LateTable, Stopped, TrainingError
from trainer.run.folder import SNAPSHOT_CHECKSUM
from trainer.runtime.world import ROUND_SECONDS, World

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05


@dataclass
class FeedState:
    """What a checkpoint stores about the tables; plain JSON types."""

    version: int | None = None
    """The active version; None before the first."""
    requested: dict[str, str] = field(default_factory=dict)
    """Version (as text) -> checksum of its snapshot, for tables requested but not yet in use."""
    switches: list[list[int]] = field(default_factory=list)
    """[step, version] of every switch."""
    stall_seconds: float = 0.0
    """Time that training waited for tables."""


class TableFeed:
    """The active tables of all tasks, the same on every rank."""

    def __init__(
        self,
        folder: Path,
        refresh: RefreshConfig,
        world: World,
        *,
        check: Callable[[Mapping[str, ClusterTable]], None],
        stop_requested: Callable[[], bool],
        given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start without a table.

        Args:
            folder: the store, `RUN/tables`.
            refresh: lag, what to do when a table is late, how long to wait.
            world: the ranks.
            check: raises ConfigError if the tables do not fit the model; runs on rank 0.
            stop_requested: whether this rank was asked to stop; checked while it waits.
            given_up: whether it is certain that no table will come; only checked on rank 0.
        """
        self.state = FeedState()
        self.tables: dict[str, ClusterTable] = {}
        self._folder = folder
        self._refresh = refresh
        self._world = world
        self._check = check
        self._stop_requested = stop_requested
        self._given_up = given_up
        self._warned_of: int | None = None

    @property
    def version(self) -> int | None:
        """The active version: the step whose weights made the tables."""
        return self.state.version

    def request(self, version: int, snapshot_checksum: str) -> None:
        """Note that a snapshot was written; its table is switched to when due."""
        if version == self.version:
            return  # asked again after a stop while waiting for this very table
        self.state.requested[str(version)] = snapshot_checksum

    def next_switch(self, step: int) -> int | None:
        """The next step at which the tables will change; None if that is not known."""
        if not self.state.requested or self._refresh.on_late == "continue":
            return None
        return max(step, max(map(int, self.state.requested)) + self._refresh.lag)

    def advance(self, step: int) -> bool:
        """Switch if a table is due at this step. Every rank must call it at every step.

        Returns:
            Whether the tables changed; the same on every rank.

        Raises:
            LateTable: the table did not come in time, or never will; on every rank.
            TrainingError: it cannot be read, or does not fit; on every rank.
            Stopped: a rank was asked to stop while all waited; on every rank.
        """
        due = [v for v in map(int, self.state.requested) if v + self._refresh.lag <= step]
        if self.version is None:
            due = [int(v) for v in self.state.requested]
        if not due:
            return False
        if self.version is None or self._refresh.on_late == "wait":
            return self._wait_for(max(due), step)
        if self._switch_to_newest(due, step):
            return True
        if self._world.is_first and self._warned_of != max(due):
            self._warned_of = max(due)
            logger.warning(
                "step %d: table %d is late; training continues with table %s (refresh.on_late: "
                "continue). Is the clustering service running?",
                step,
                max(due),
                self.version,
            )
        return False

    def finish(self, step: int) -> bool:
        """Wait for the table of the last weights, for the final evaluation.

        Returns:
            Whether it came; with on_late continue, an older table may be used instead.
        """
        try:
            return self._wait_for(step, step)
        except LateTable as error:
            if self._refresh.on_late == "wait" or self.version is None:
                raise
            logger.warning("%s; evaluating with table %s", error, self.version)
            return False

    def restore(self, state: FeedState, folder: Path) -> None:
        """Continue from a checkpoint's state; its active tables are loaded from this store."""
        self.state = state
        if self._refresh.on_late == "wait" and state.requested:
            # After running with `continue`, the service may have skipped all but the newest.
            newest = max(state.requested, key=int)
            state.requested = {newest: state.requested[newest]}
        if state.version is not None:
            self._take(state.version, folder)

    def _wait_for(self, version: int, step: int) -> bool:
        started = time.monotonic()
        try:
            self._wait_until(version, step, started + self._refresh.timeout_seconds)
        finally:
            self.state.stall_seconds += time.monotonic() - started
        return True

    def _wait_until(self, version: int, step: int, deadline: float) -> None:
        while not self._switch_to_newest([version], step, until=time.monotonic() + ROUND_SECONDS):
            self._stop_if_requested(version, step)
            reason = self._world.broadcast_text(self._reason_to_give_up(deadline))
            if reason:
                raise LateTable(
                    f"step {step}: no cluster table {version} in {self._folder} {reason}"
                )

    def _reason_to_give_up(self, deadline: float) -> str | None:
        """Why to stop waiting; None to go on. Rank 0's answer counts."""
        if self._world.is_first and self._given_up():
            return "and none will come: the clustering service was given up; its log says why"
        if time.monotonic() <= deadline:
            return None
        return (
            f"after {self._refresh.timeout_seconds:g} s (refresh.timeout_seconds); is the "
            "clustering service running (python -m cluster_jobs.recluster --config ...)?"
        )

    def _stop_if_requested(self, version: int, step: int) -> None:
        requested = torch.tensor(self._stop_requested(), dtype=torch.int32)
        if self._world.sum(requested):
            raise Stopped(
                f"stopped at step {step}, while waiting for cluster table {version}; "
                "--resume auto (the default) continues from the newest checkpoint"
            )

    def _switch_to_newest(self, versions: list[int], step: int, until: float = 0.0) -> bool:
        found = None
        if self._world.is_first:
            while not (found := self._published(versions)) and time.monotonic() < until:
                time.sleep(_POLL_SECONDS)
        answer = self._world.broadcast_text(str(found) if found is not None else None)
        if answer is None:
            return False
        version = int(answer)
        self._take(version, self._folder)
        self.state.version = version
        self.state.switches.append([step, version])
        pending = self.state.requested.items()
        self.state.requested = {v: c for v, c in pending if int(v) > version}
        return True

    def _published(self, versions: list[int]) -> str | None:
        for version in sorted(versions, reverse=True):
            try:
                stats = store.stats(self._folder, version)
            except ClusterError:
                continue
            wanted = self.state.requested.get(str(version))
            # A table of other weights (an earlier attempt at this step) is not an answer.
            if all(entry.get(SNAPSHOT_CHECKSUM) == wanted for entry in stats.values()):
                return str(version)
        return None

    def _take(self, version: int, folder: Path) -> None:
        """Load and check on rank 0, broadcast; a failure on rank 0 is raised on every rank."""
        tables, problem = self._world.run_on_rank_zero(lambda: self._read(version, folder)) or (
            {},
            None,
        )
        problem = self._world.broadcast_text(problem)
        if problem:
            raise TrainingError(problem)
        header = json.dumps({task: table.stats for task, table in tables.items()})
        stats = json.loads(self._world.broadcast_text(header) or "{}")
        self.tables = {}
        for task, entry in stats.items():
            mine = tables[task].arrays() if self._world.is_first else None
            arrays = self._world.broadcast_arrays(mine)
            self.tables[task] = ClusterTable.from_arrays(
                arrays, version=version, task=task, stats=entry
            )

    def _read(self, version: int, folder: Path) -> tuple[Mapping[str, ClusterTable], str | None]:
        """The tables, and what is wrong with them or None."""
        try:
            tables = store.load(folder, version)
            self._check(tables)
        except (ClusterError, ConfigError) as error:
            return {}, str(error)
        return tables, None
