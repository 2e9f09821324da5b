"""What a step minimises: the terms of the loss section, summed over the tasks.

Legend: B images of a micro-batch, N training images, C classes, M clusters of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from clustering.table.table import ClusterTable
from data_shards.errors import ConfigError
from trainer.losses.batch import ClusterComparison, StepView, TaskBatch, TaskTable
from trainer.losses.outputs import TaskOutput
from trainer.losses.registry import LOSSES
from trainer.losses.running_means import Gather, StepEmbeddings
from trainer.losses.schedule import Clock, step_at
from trainer.losses.softmax import RetrainedTerm
from trainer.losses.spec import LossSettings, Term

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TaskTarget:
    """The training target of one task."""

    labels: np.ndarray
    """(N,) int64 class of each training image."""
    class_counts: np.ndarray
    """(C,) int64 training images of each class."""
    weight: float = 1.0
    """Of the task's loss in the sum."""


class ObjectiveValue(NamedTuple):
    """The loss of a micro-batch."""

    loss: Tensor
    """Scalar, to be minimised."""
    parts: dict[str, Tensor]
    """Detached scalars to show: "loss", and "task/part"."""
    comparisons: dict[str, ClusterComparison]
    """Task -> what CLMLE compared its images with; empty for other losses."""


class Objective:
    """The loss of a micro-batch. Means over its images, so that micro-batches average."""

    def __init__(
        self,
        settings: LossSettings,
        targets: Mapping[str, TaskTarget],
        ids: np.ndarray,
        *,
        num_steps: int,
        device: torch.device,
    ) -> None:
        """Prepare labels and terms.

        Args:
            settings: the loss section.
            targets: task -> its training target, in the order of the run's tasks.
            ids: (N,) int64 sample ids of the training images, ascending.
            num_steps: length of the training run, of which the loss section's shares are; later
                steps are of the classifier stage.
            device: where the network's outputs are.
        """
        self._settings = settings
        self._targets = targets
        self._ids = ids
        self._num_steps = num_steps
        self._warmup_end = step_at(settings.warmup_share, num_steps)
        self._device = device
        self._tables: dict[str, TaskTable] = {}
        self._step_embeddings = StepEmbeddings()
        self._terms = {
            task: make_terms(settings, target.class_counts, device)
            for task, target in targets.items()
        }

    def use_tables(self, tables: Mapping[str, ClusterTable]) -> None:
        """Use these tables from now on; running means start at their centroids."""
        self._tables = {t: TaskTable.of(table, self._device) for t, table in tables.items()}

    def state(self) -> dict[str, Tensor]:
        """What the terms keep from step to step, to be saved; empty where nothing is kept.

        Returns:
            "task/name" -> tensor, of names as `Term.state` has them.
        """
        return {
            f"{task}/{name}": value
            for task, terms in self._terms.items()
            for term in terms
            for name, value in term.state(self._tables.get(task)).items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what was saved for the tables in use, as far as the terms still keep it.

        Raises:
            ConfigError: an earlier release saved it, under other names.
        """
        old = [name for name in state if "/" not in name]
        if old:
            raise ConfigError(
                f"the checkpoint is of an earlier release, which saved the running means of task "
                f"{old[0]} in another form; resume it with that release, or begin from its weights "
                "(model.weights=RUN/snapshots/step_...)"
            )
        for task, terms in self._terms.items():
            prefix = f"{task}/"
            of_task = {
                name.removeprefix(prefix): value
                for name, value in state.items()
                if name.startswith(prefix)
            }
            for term in terms:
                term.restore(of_task, self._tables.get(task))

    def follow_step(self, gather: Gather) -> None:
        """After an update, pass the step's embeddings to the terms. Every rank must call it.

        Args:
            gather: puts the ranks' tensors side by side.
        """
        for task, (embeddings, clusters) in self._step_embeddings.gather(gather).items():
            table = self._tables[task]
            step = StepView(embeddings, clusters, table.centroids[clusters])
            for term in self._terms[task]:
                if term.follows_steps:
                    term.follow(step, table)

    def margin_factor(self, step: int) -> float:
        """Share of the full margins at a step, in [0, 1]."""
        return self._clock(step).margin_factor(self._settings.margin_anneal)

    def __call__(
        self, outputs: Mapping[str, TaskOutput], sample_ids: np.ndarray, step: int
    ) -> ObjectiveValue:
        """The loss to minimise.

        Args:
            outputs: the network's outputs for the micro-batch, by task.
            sample_ids: (B,) int64 which images they are of.
            step: the step, for what changes over the training run.
        """
        total = torch.zeros((), device=self._device)
        parts: dict[str, Tensor] = {}
        comparisons: dict[str, ClusterComparison] = {}
        rows = np.searchsorted(self._ids, sample_ids)
        for task, target in self._targets.items():
            batch = TaskBatch(
                output=outputs[task],
                labels=torch.from_numpy(target.labels[rows]).to(self._device),
                sample_ids=self._ids[rows],
                table=self._tables.get(task),
                clock=self._clock(step),
            )
            terms = self._terms_of(task, step)
            for term in terms:
                value = term(batch)
                total = total + target.weight * value.loss
                parts |= {f"{task}/{name}": part.detach() for name, part in value.parts.items()}
                if value.comparison is not None:
                    comparisons[task] = value.comparison
            if step >= self._warmup_end and any(term.follows_steps for term in terms):
                _, clusters = batch.clusters
                self._step_embeddings.add(task, batch.output.embedding, clusters)
        parts["loss"] = total.detach()
        return ObjectiveValue(total, parts, comparisons)

    def _clock(self, step: int) -> Clock:
        return Clock(step=step, warmup_end=self._warmup_end, num_steps=self._num_steps)

    def _terms_of(self, task: str, step: int) -> list[Term]:
        """The terms that are minimised at a step."""
        if step >= self._num_steps:
            return [RetrainedTerm()]
        if step < self._warmup_end:
            return [term for term in self._terms[task] if term.in_warmup]
        return self._terms[task]


def make_terms(
    settings: LossSettings, class_counts: np.ndarray, device: torch.device
) -> list[Term]:
    """The terms whose sum is minimised for a task.

    Args:
        settings: the loss section.
        class_counts: (C,) training images of each class of the task.
        device: where the network's outputs are.

    Returns:
        The loss's own term, and those of its settings beside it, such as the softmax term.
    """
    own: Term = LOSSES[settings.name].make_term(settings, class_counts, device)
    return [own, *settings.extra_terms(class_counts, device)]
