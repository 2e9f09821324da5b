"""The training loop: step; maybe switch tables, log, evaluate, save.

Every rank runs it in lock-step; only rank 0 writes.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from data_shards.progress import Progress
from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import Manifest
from trainer.config.run_config import RunConfig
from trainer.config.sections import TaskConfig
from trainer.errors import LateTable, Stopped
from trainer.evaluation.ranks import RankEvaluator
from trainer.losses.collapse import CollapseWatch
from trainer.losses.objective import Objective
from trainer.run.folder import RunFolder
from trainer.runtime.engine import Engine
from trainer.runtime.table_feed import TableFeed
from trainer.runtime.world import World
from trainer.sampling.batch_loader import BatchLoader
from trainer.sampling.batch_plan import BatchPlan
from trainer.state import checkpoint
from trainer.state.checkpoint import LoopState
from trainer.state.metrics import MetricWriter
from trainer.state.snapshot import NetworkDescription, write_snapshot
from trainer.step import StepRecord, TrainingStep

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Parts:
    """What the loop is made of; `trainer.train` puts them together."""

    config: RunConfig
    world: World
    run: RunFolder
    manifest: Manifest
    tasks: tuple[TaskConfig, ...]
    description: NetworkDescription
    engine: Engine
    feed: TableFeed
    index: SampleIndex
    """Of the training split."""
    loader: BatchLoader
    objective: Objective
    evaluator: RankEvaluator | None
    """None when the shards have no test split."""
    metrics: MetricWriter | None
    """On rank 0 alone."""


class Loop:
    """A training run, from its first step or a checkpoint to its final evaluation."""

    def __init__(
        self,
        parts: Parts,
        *,
        stop_requested: Callable[[], bool],
        resumed: LoopState | None = None,
        now_at: Callable[[str], None] = lambda place: None,
    ) -> None:
        """Start before the first step, or where a checkpoint was saved.

        Args:
            parts: everything, with the checkpoint's weights if there was one.
            stop_requested: whether this process was asked to end.
            resumed: the checkpoint's loop state.
            now_at: told what this rank does from now on, as `RankWatch.at`.
        """
        self._parts = parts
        self._stop_requested = stop_requested
        self._now_at = now_at
        self._step = TrainingStep(parts.config, parts.engine, parts.objective, parts.loader)
        self._watch = CollapseWatch()
        self._record = StepRecord()
        self.step = resumed.step if resumed else 0
        """Optimiser steps done."""
        self._saved = resumed.step if resumed else None  # step of the last checkpoint
        self.train_seconds = resumed.train_seconds if resumed else 0.0

    def run(self) -> dict[str, Any]:
        """Train to the last step, then evaluate with tables of the last weights.

        Returns:
            The final evaluation, the same on every rank; empty without a test split.

        Raises:
            Stopped: a rank was asked to stop; a checkpoint was written.
            NonFiniteLoss, TrainingError: as the parts raise them, on every rank.
            DataError: an image cannot be read, on the rank that reads it; the launcher ends the
                others.
        """
        parts, steps = self._parts, self._parts.config.train.steps
        if parts.feed.tables or parts.config.sampling_at(self.step) != "cluster":
            self._read_ahead()
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            Progress(
                steps,
                label="training",
                unit="steps",
                stream=sys.stderr if parts.world.is_first else nowhere,  # rank 0 alone
                done=self.step,
            ) as progress,
        ):
            if self._lacks_evaluation():
                self._evaluate()
            while self.step < steps:
                self._now_at(f"step {self.step}")
                self._follow_tables()
                stopping = self._step.run(self.step, self._record, stop=self._stop_requested())
                self.step += 1
                self._after_step(stopping)
                progress.update(1)
        self._now_at("the wait for the last tables")
        self._ask_for_tables()
        if parts.feed.finish(self.step):
            self._write(self._table_metrics())
        return self._evaluate()

    def _follow_tables(self) -> None:
        """Ask for a table when one is due, switch when one has come; all ranks at one step."""
        asked = self.step in self._parts.config.refresh_steps() or self._lacks_tables()
        # First what is due already: the service skips an older request for a newer one.
        switched = self._advance_tables()
        if asked:
            self._ask_for_tables()
            switched |= self._advance_tables()
        if switched:
            self._write(self._table_metrics())
            if len(self._parts.feed.state.switches) == 1:
                self._warn_about_small_clusters()
        if asked or switched:
            self._read_ahead()  # now it is known for how long these tables hold

    def _lacks_tables(self) -> bool:
        """Whether tables are needed but were never asked for: it resumed from a run without any."""
        config, feed = self._parts.config, self._parts.feed
        needed = config.needs_tables and config.warmup_end <= self.step < config.classifier_start
        return needed and feed.version is None and not feed.state.requested

    def _lacks_evaluation(self) -> bool:
        """Whether this step's evaluation is missing: a run that is asked to stop skips it."""
        evaluator = self._parts.evaluator
        return self._is_evaluated() and evaluator is not None and not evaluator.is_done(self.step)

    def _is_evaluated(self) -> bool:
        """Whether this step ends with an evaluation; that of the last one comes by itself."""
        config = self._parts.config
        return 0 < self.step < config.train.steps and _due(self.step, config.evaluation.every)

    def _warn_about_small_clusters(self) -> None:
        if self._parts.config.sampling != "cluster":
            return
        wanted = self._parts.config.sampler.images_per_cluster
        for task, table in self._parts.feed.tables.items():
            small = int((table.cluster_sizes < wanted).sum())
            if small and self._parts.world.is_first:
                logger.warning(
                    "task %s: %d of %d clusters have fewer than sampler.images_per_cluster = %d "
                    "images and repeat them within a batch",
                    task,
                    small,
                    table.num_clusters,
                    wanted,
                )

    def _advance_tables(self) -> bool:
        try:
            switched = self._parts.feed.advance(self.step)
        except LateTable:
            if self.step:  # before the first step there is nothing to keep
                self._save()
            raise
        except Stopped:
            self._save()
            raise
        if switched:
            self._parts.objective.use_tables(self._parts.feed.tables)
        return switched

    def _ask_for_tables(self) -> None:
        """Write a snapshot: the request for tables of these weights."""
        parts = self._parts
        self._step.check_weights(self.step)
        state = parts.engine.full_state()
        snapshot = parts.world.run_on_rank_zero(
            lambda: write_snapshot(
                parts.run,
                self.step,
                state=state,
                network=parts.description,
                data_checksum=parts.manifest.checksum,
            )
        )
        checksum = parts.world.broadcast_text(snapshot.checksum if snapshot else None)
        assert checksum is not None
        parts.feed.request(self.step, checksum)

    def _read_ahead(self) -> None:
        parts = self._parts
        plan = BatchPlan(parts.config, parts.tasks, parts.index, parts.world, parts.feed.tables)
        switch = parts.feed.next_switch(self.step)
        end = parts.config.train.steps if switch is None else switch
        if not parts.feed.tables:  # batches are drawn by label until the first table
            end = min([end, *parts.config.refresh_steps()])
        parts.loader.start(plan, first_step=self.step, end_step=end)

    def _after_step(self, stopping: bool) -> None:
        config, step = self._parts.config, self.step
        last = step == config.train.steps
        if step % config.train.log_every == 0 or last:
            self._log()
        # Saved first: a run that is asked to stop has seconds, and an evaluation may take minutes.
        if last or stopping or _due(step, config.checkpoint.every):
            self._save()
        if stopping and not last:
            raise Stopped(f"stopped after step {step}; --resume auto (the default) resumes there")
        if self._is_evaluated():
            self._evaluate()

    def _log(self) -> None:
        """Of the steps since the last row: mean of each part over micro-batches and ranks."""
        parts, record = self._parts, self._record
        self._record = StepRecord()
        self.train_seconds += record.seconds
        names = sorted(record.parts)
        sums = torch.stack([record.parts[name].float() for name in names])
        counts = torch.tensor([record.counts[name] for name in names], device=sums.device)
        means = parts.world.mean(sums / counts).tolist()
        values = {f"train/{name}": mean for name, mean in zip(names, means, strict=True)}
        waiting = torch.tensor(record.waiting_seconds / record.seconds)
        values |= {
            "train/images_per_second": record.images * parts.world.size / record.seconds,
            "train/data_wait_share": float(parts.world.gather(waiting).max()),
            "train/learning_rate": self._step.learning_rate,
            "train/margin_factor": parts.objective.margin_factor(self.step - 1),
        }
        if parts.feed.version is not None:
            values["table/version"] = parts.feed.version
            values["table/age_steps"] = self.step - parts.feed.version
        if parts.world.is_first:  # only rank 0 writes and warns
            values |= self._watch.measure(record.observed, record.comparisons)
        self._write(values)

    def _table_metrics(self) -> dict[str, float]:
        feed = self._parts.feed
        values = {
            f"clusters/{task}/{name.removeprefix('clusters/')}": float(value)
            for task, table in feed.tables.items()
            for name, value in table.stats.items()
            if isinstance(value, (int, float)) and name != "seed"
        }
        return values | {"table/stall_seconds": feed.state.stall_seconds}

    def _save(self) -> None:
        if self._saved == self.step:
            return
        parts = self._parts
        self._now_at(f"the checkpoint of step {self.step}")
        self._step.check_weights(self.step)
        state = LoopState(
            step=self.step,
            feed=parts.feed.state,
            train_seconds=self.train_seconds + self._record.seconds,
            network=parts.description,
            data_checksum=parts.manifest.checksum,
            world_size=parts.world.size,
            zero_stage=parts.config.train.zero_stage,
            optimizer=parts.config.optim.name,
        )
        checkpoint.save(
            parts.engine,
            parts.run,
            state,
            keep=parts.config.checkpoint.keep,
            statistics=parts.objective.state(),
        )
        self._saved = self.step

    def _evaluate(self) -> dict[str, Any]:
        parts = self._parts
        if parts.evaluator is None:
            return {}
        self._now_at(f"the evaluation after step {self.step}")
        with parts.engine.evaluate():
            summary, metrics = parts.evaluator.run(
                parts.engine.network, self.step, parts.feed.tables, parts.feed.version
            )
        self._write(metrics)
        return summary

    def _write(self, values: Mapping[str, float]) -> None:
        if self._parts.metrics is not None:
            self._parts.metrics.write(self.step, values)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
