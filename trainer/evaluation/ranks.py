"""Evaluation spread over the training ranks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch

from clustering.table.table import ClusterTable
from data_shards.features.embeddings import EmbeddingShards
from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import Manifest
from trainer.config.sections import EvaluationConfig, TaskConfig
from trainer.evaluation.counts import ClassCounts
from trainer.evaluation.evaluate import count_batches, evaluation_batches
from trainer.evaluation.registry import neighbour_readouts
from trainer.evaluation.report import (
    as_metrics,
    class_lists,
    evaluation_path,
    summarise,
    write_evaluation,
)
from trainer.evaluation.training_embeddings import missing_embeddings, training_embeddings
from trainer.models.network import Network
from trainer.run.folder import RunFolder, step_name
from trainer.runtime.world import World

logger = logging.getLogger(__name__)


class RankEvaluator:
    """Each rank classifies its part of the batches; only counts are exchanged."""

    def __init__(
        self,
        run: RunFolder,
        world: World,
        manifest: Manifest,
        tasks: Sequence[TaskConfig],
        config: EvaluationConfig,
        *,
        reader_threads: int = 1,
    ) -> None:
        """Open the split that `config.split` names.

        Args:
            run: the folder that evaluations are written to.
            world: the ranks.
            manifest: of the images.
            tasks: what is evaluated.
            config: settings of the read-outs.
            reader_threads: per rank, as for `count_batches`.

        Raises:
            DataError: there is no such split, or it is damaged.
        """
        self._run = run
        self._world = world
        self._tasks = tasks
        self._config = config
        self._reader_threads = reader_threads
        self._index = SampleIndex(manifest, config.split)
        self._class_counts = {t.name: manifest.class_counts("train", t.label) for t in tasks}
        self._classes = class_lists(tasks, manifest, config.split)
        batches = evaluation_batches(manifest.split(config.split), config.batch_size)
        self._mine = batches[world.rank :: world.size]

    def run(
        self,
        network: Network,
        step: int,
        tables: Mapping[str, ClusterTable],
        version: int | None,
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Evaluate and write `RUN/evaluation/step_....json`. Every rank must call it.

        Args:
            network: whole, in evaluation mode.
            step: optimiser steps done.
            tables: task -> its clusters.
            version: of the tables.

        Returns:
            The summary, and its scalars as metrics; the same on every rank. Both are empty, and no
            file is written, if there is no read-out: no classifier, and no tables yet.
        """
        # Closed, since training does not use its files.
        with closing(self._index) as index:
            mine = count_batches(
                network,
                index,
                self._mine,
                tasks=self._tasks,
                tables=tables,
                config=self._config,
                class_counts=self._class_counts,
                training=self._training(step, tables, version),
                reader_threads=self._reader_threads,
            )
        if not mine:
            return {}, {}
        counts = {key: self._summed(counted) for key, counted in mine.items()}
        summary = summarise(
            counts,
            step=step,
            table_version=version,
            classes=self._classes,
            split=self._config.split,
        )
        if self._world.is_first:
            write_evaluation(self._run, summary)
        return summary, as_metrics(summary)

    def is_done(self, step: int) -> bool:
        """Whether the evaluation of a step has been written. Every rank must call it."""
        file = evaluation_path(self._run, step, self._config.split)
        found = torch.tensor(self._world.is_first and file.exists(), dtype=torch.int64)
        return bool(self._world.sum(found))

    def _training(
        self, step: int, tables: Mapping[str, ClusterTable], version: int | None
    ) -> dict[str, EmbeddingShards] | None:
        """The training images' embeddings by exactly these weights; None on all ranks or none."""
        if not neighbour_readouts(self._config) or version != step:
            return None
        folder = self._run.embeddings / step_name(step)
        found = training_embeddings(folder, self._tasks, tables)
        everywhere = self._world.sum(torch.tensor(found is not None, dtype=torch.int64))
        if int(everywhere) == self._world.size:
            return found
        if self._world.is_first:
            logger.warning("%s", missing_embeddings(self._config, step, folder))
        return None

    def _summed(self, counts: ClassCounts) -> ClassCounts:
        both = torch.from_numpy(np.stack([counts.correct, counts.total]))
        correct, total = self._world.sum(both).numpy()
        return ClassCounts(correct, total)
