"""What a step minimises: the terms of the loss section, summed over the tasks.

Legend: B images of a micro-batch, C classes, K candidate clusters.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from clustering.table.table import ClusterTable
from data_shards.shards.index import SampleIndex
from trainer.config.sections import TaskConfig
from trainer.losses.batch import Candidates, TaskBatch, TaskTable
from trainer.losses.isda import moved_covariance
from trainer.losses.loss_section import LossConfig
from trainer.losses.outputs import TaskOutput
from trainer.losses.running_means import StepEmbeddings, move_means
from trainer.losses.schedule import isda_factor, margin_factor, step_at
from trainer.losses.terms import RetrainedTerm, SoftmaxTerm, Term, make_terms
from trainer.runtime.world import World

# Share of the covariance that a step leaves in place: it is of the last hundred steps or so.
_COVARIANCE_MOMENTUM = 0.99
_COVARIANCE = "/covariance"


class Objective:
    """The loss of a micro-batch. Means over its images, so that micro-batches average."""

    def __init__(
        self,
        loss: LossConfig,
        tasks: tuple[TaskConfig, ...],
        index: SampleIndex,
        *,
        class_counts: Mapping[str, np.ndarray],
        num_steps: int,
        device: torch.device,
    ) -> None:
        """Prepare labels and class weights.

        Args:
            loss: the loss section.
            tasks: the run's tasks.
            index: training samples, for their labels.
            class_counts: task -> (C,) training images of each class.
            num_steps: length of the training, of which the loss section's shares are; later steps
                are of the classifier stage.
            device: where the network's outputs are.
        """
        self._loss = loss
        self._tasks = tasks
        self._num_steps = num_steps
        self._clmle_start = step_at(loss.warmup_share, num_steps)
        self._device = device
        self._ids = index.ids
        self._labels = {task.name: index.labels(task.label) for task in tasks}
        self._tables: dict[str, TaskTable] = {}
        self._candidates: dict[str, Candidates] = {}
        self._covariances: dict[str, torch.Tensor] = {}
        self._step_embeddings = StepEmbeddings()
        self._terms = {
            task.name: make_terms(loss, class_counts[task.name], device) for task in tasks
        }

    def use_tables(self, tables: Mapping[str, ClusterTable]) -> None:
        """Take these tables from now on; running means start at their centroids."""
        self._tables = {t: TaskTable.of(table, self._device) for t, table in tables.items()}

    def running_statistics(self) -> dict[str, torch.Tensor]:
        """What was followed from step to step, to be saved; empty where nothing is.

        Returns:
            Task -> (M, D) float32 means of its clusters, which the next step changes;
            task + "/covariance" -> (D, D) float32.
        """
        kept = {task + _COVARIANCE: rows for task, rows in self._covariances.items()}
        if self._loss.keeps_means:
            kept |= {task: table.centroids for task, table in self._tables.items()}
        return kept

    def restore_statistics(self, statistics: Mapping[str, torch.Tensor]) -> None:
        """Go on with what was saved for the tables in use, as far as it is still kept."""
        for name, rows in statistics.items():
            task = name.removesuffix(_COVARIANCE)
            if task == name and self._loss.keeps_means:
                self._tables[task].centroids.copy_(rows)
            elif task != name and self._loss.keeps_covariance:
                self._covariances[task] = rows.to(self._device)

    def move_statistics(self, world: World) -> None:
        """After an update: follow the step's images with running means and covariances.

        Every rank must call it.
        """
        for task, (embeddings, clusters) in self._step_embeddings.gather(world).items():
            table = self._tables[task]
            if self._loss.keeps_covariance:
                self._covariances[task] = moved_covariance(
                    self._covariances.get(task),
                    embeddings,
                    table.centroids[clusters],
                    momentum=_COVARIANCE_MOMENTUM,
                )
            if self._loss.keeps_means:
                move_means(table.centroids, embeddings, clusters, momentum=self._loss.mean_momentum)

    def margin_factor(self, step: int) -> float:
        """Share of the full margins at a step, in [0, 1]."""
        return margin_factor(
            step - self._clmle_start,
            num_steps=self._num_steps,
            anneal_share=self._loss.margin_anneal,
        )

    @property
    def candidates(self) -> Mapping[str, Candidates]:
        """Task -> the clusters that CLMLE compared the last micro-batch with."""
        return self._candidates

    def __call__(
        self, outputs: Mapping[str, TaskOutput], sample_ids: np.ndarray, step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss to minimise, and its detached parts by name.

        Args:
            outputs: the network's outputs for the micro-batch.
            sample_ids: (B,) int64 which images they are of.
            step: the step, for what changes over the training.
        """
        total = torch.zeros((), device=self._device)
        parts: dict[str, torch.Tensor] = {}
        self._candidates = {}
        rows = np.searchsorted(self._ids, sample_ids)
        for task in self._tasks:
            batch = self._batch(task.name, outputs[task.name], rows, step)
            for term in self._terms_of(task.name, step):
                value = term(batch)
                total = total + task.weight * value.loss
                parts |= {f"{task.name}/{n}": part.detach() for n, part in value.parts.items()}
                if value.candidates is not None:
                    self._candidates[task.name] = value.candidates
                    self._collect(batch, task.name)
        parts["loss"] = total.detach()
        return total, parts

    def _collect(self, batch: TaskBatch, task: str) -> None:
        if self._loss.keeps_means or self._loss.keeps_covariance:
            _, clusters = batch.clusters
            self._step_embeddings.add(task, batch.output.embedding, clusters)

    def _terms_of(self, task: str, step: int) -> list[Term]:
        """The terms in force at a step."""
        if step >= self._num_steps:
            return [RetrainedTerm()]
        terms = self._terms[task]
        if step < self._clmle_start:
            return [term for term in terms if isinstance(term, SoftmaxTerm)]
        return terms

    def _batch(self, task: str, output: TaskOutput, rows: np.ndarray, step: int) -> TaskBatch:
        """A task's view of the images in these rows of the index."""
        return TaskBatch(
            output=output,
            labels=torch.from_numpy(self._labels[task][rows]).to(self._device),
            sample_ids=self._ids[rows],
            table=self._tables.get(task),
            margin_factor=self.margin_factor(step),
            reweighted=step >= step_at(self._loss.reweight_from, self._num_steps),
            isda_factor=isda_factor(step, first_step=self._clmle_start, num_steps=self._num_steps),
            covariance=self._covariances.get(task),
        )
