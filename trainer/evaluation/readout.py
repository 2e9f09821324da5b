"""What a read-out is: a way to turn embeddings into classes, and what it may use for that.

Legend: N queries (images to classify), D embedding, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from clustering.table.table import ClusterTable
from data_shards.features.embeddings import EmbeddingShards
from trainer.config.sections import EvaluationConfig
from trainer.losses.outputs import TaskOutput
from trainer.models.heads import TaskHead

T = TypeVar("T")
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


class Need(Enum):
    """What a read-out may need; embeddings, settings and class counts are always there."""

    TABLE = auto()
    """The task's clusters."""
    CLASSIFIER = auto()
    """Logits: of a linear classifier, or cosines to class vectors."""
    LINEAR_CLASSIFIER = auto()
    """Logits of a linear classifier."""
    RETRAINED_CLASSIFIER = auto()
    """Logits of the second classifier, of the classifier stage."""
    TRAINING_EMBEDDINGS = auto()
    """The embeddings of the training images. Such a read-out gets the queries of many batches at
    once, since it reads all of these, and no forward pass, since that many would take too much
    memory."""


@dataclass(frozen=True, kw_only=True)
class TaskContext:
    """What is known about a task, whichever images are classified."""

    head: TaskHead
    config: EvaluationConfig
    class_counts: IntArray
    """(C,) training images of each class."""
    table: ClusterTable | None = None
    training: EmbeddingShards | None = None

    def has(self, need: Need) -> bool:
        """Whether the task can meet a need."""
        return {
            Need.TABLE: self.table is not None,
            Need.CLASSIFIER: self.head.classifier is not None,
            Need.LINEAR_CLASSIFIER: self.head.linear_classifier is not None,
            Need.RETRAINED_CLASSIFIER: self.head.retrained is not None,
            Need.TRAINING_EMBEDDINGS: self.training is not None,
        }[need]


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Images of one task to classify."""

    context: TaskContext
    wanted: Collection[str]
    """All read-outs that will classify these images."""
    batches: Sequence[FloatArray]
    """(n, D) float32 unit rows of each batch, n <= `config.batch_size`; N rows in all."""
    output: TaskOutput | None
    """The forward pass of the only batch; None with `Need.TRAINING_EMBEDDINGS`."""
    _computed: dict[Callable[[Queries], Any], Any] = field(default_factory=dict)

    def once(self, compute: Callable[[Queries], T]) -> T:
        """The result of a computation that several read-outs share; computed by the first."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        result: T = self._computed[compute]
        return result


@dataclass(frozen=True, kw_only=True)
class ReadOut:
    """A way to turn embeddings into classes."""

    name: str
    """As in reports and `clmle classify --readout`."""
    needs: frozenset[Need]
    predict: Callable[[Queries], IntArray]
    """Queries -> (N,) classes. It may rely on what it `needs`, and on nothing else that can be
    None. A query gets the same class whatever other queries come with it."""
    is_enabled: Callable[[EvaluationConfig], bool] = lambda config: True
    """Whether the configuration asks for it."""

    def is_available(self, context: TaskContext) -> bool:
        """Whether a task has what it takes."""
        return self.is_enabled(context.config) and all(map(context.has, self.needs))


def needed(value: T | None) -> T:
    """A value that exists because the read-out `needs` it."""
    assert value is not None, "a read-out uses what it does not list in `needs`"
    return value
