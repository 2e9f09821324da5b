"""What a step minimises: the CLMLE terms and the softmax term, summed over the tasks.

Legend: B images of a micro-batch, C classes, M clusters of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from clustering.table import ClusterTable
from data_shards.index import SampleIndex
from trainer.losses.clmle import ClmleTerms, clmle_loss, with_batch_means
from trainer.losses.schedule import margin_factor
from trainer.losses.softmax import class_weights, softmax_loss
from trainer.models.network import TaskOutput
from trainer.sections import LossConfig, TaskConfig


@dataclass(frozen=True)
class TaskTable:
    """One task's clusters where the loss needs them."""

    centroids: torch.Tensor
    """(M, D) float32 unit rows."""
    class_of: torch.Tensor
    """(M,) int64."""
    ids: np.ndarray
    """(N,) int64 sample ids, ascending."""
    cluster_of_id: np.ndarray
    """(N,) int64 cluster of each of `ids`."""

    @classmethod
    def of(cls, table: ClusterTable, device: torch.device) -> TaskTable:
        """Turn a table's member lists around: from cluster -> ids to id -> cluster."""
        clusters = np.repeat(np.arange(table.num_clusters), table.cluster_sizes)
        order = np.argsort(table.member_ids, kind="stable")
        return cls(
            centroids=torch.from_numpy(np.array(table.centroids)).to(device),
            class_of=torch.from_numpy(np.array(table.class_of)).to(device),
            ids=table.member_ids[order],
            cluster_of_id=clusters[order],
        )

    def clusters(self, sample_ids: np.ndarray) -> torch.Tensor:
        """(B,) int64 cluster of each sample, on the table's device."""
        found = self.cluster_of_id[np.searchsorted(self.ids, sample_ids)]
        return torch.from_numpy(found).to(self.class_of.device)


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
            num_steps: length of the training, for the margins' schedule.
            device: where the network's outputs are.
        """
        self._loss = loss
        self._tasks = tasks
        self._num_steps = num_steps
        self._device = device
        self._ids = index.ids
        self._labels = {task.name: index.labels(task.label) for task in tasks}
        self._tables: dict[str, TaskTable] = {}
        self._candidates: dict[str, torch.Tensor] = {}
        self._weights = {
            task.name: None
            if loss.class_weight == "none"
            else class_weights(
                class_counts[task.name], loss.class_weight, beta=loss.class_weight_beta
            ).to(device)
            for task in tasks
        }

    def use_tables(self, tables: Mapping[str, ClusterTable]) -> None:
        """Take these tables from now on."""
        self._tables = {t: TaskTable.of(table, self._device) for t, table in tables.items()}

    def margin_factor(self, step: int) -> float:
        """Share of the full margins at a step, in [0, 1]."""
        return margin_factor(step, num_steps=self._num_steps, anneal_share=self._loss.margin_anneal)

    def candidate_classes(self) -> dict[str, np.ndarray]:
        """Task -> (K,) class of each cluster that the last micro-batch was compared with."""
        return {task: classes.cpu().numpy() for task, classes in self._candidates.items()}

    def __call__(
        self, outputs: Mapping[str, TaskOutput], sample_ids: np.ndarray, step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss to minimise, and its detached parts by name.

        Args:
            outputs: the network's outputs for the micro-batch.
            sample_ids: (B,) int64 which images they are of.
            step: the step, for the margins.
        """
        total = torch.zeros((), device=self._device)
        parts: dict[str, torch.Tensor] = {}
        for task in self._tasks:
            output = outputs[task.name]
            if self._loss.name == "clmle":
                terms = self._clmle(task.name, output, sample_ids, step)
                parts[f"{task.name}/between"] = terms.between.detach()
                parts[f"{task.name}/within"] = terms.within.detach()
                total = total + task.weight * terms.loss
            if output.logits is not None:
                labels = self._labels[task.name][np.searchsorted(self._ids, sample_ids)]
                cross_entropy = softmax_loss(
                    output.logits.float(),
                    torch.from_numpy(labels).to(self._device),
                    self._weights[task.name],
                )
                weight = self._loss.weight_softmax if self._loss.name == "clmle" else 1.0
                parts[f"{task.name}/softmax"] = cross_entropy.detach()
                total = total + task.weight * weight * cross_entropy
        parts["loss"] = total.detach()
        return total, parts

    def _clmle(
        self, task: str, output: TaskOutput, sample_ids: np.ndarray, step: int
    ) -> ClmleTerms:
        table = self._tables[task]
        rows, centroids, class_of = with_batch_means(
            output.embedding,
            table.clusters(sample_ids),
            table.centroids,
            table.class_of,
            candidates=self._loss.candidates,
        )
        self._candidates[task] = class_of
        grown = self.margin_factor(step)
        return clmle_loss(
            output.embedding,
            rows,
            centroids,
            class_of,
            scale=self._loss.scale,
            margin_between_rad=self._loss.margin_between * grown,
            margin_within_rad=self._loss.margin_within * grown,
            weight_within=self._loss.weight_within,
        )
