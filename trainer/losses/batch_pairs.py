"""The term of losses on pairs and triplets of a micro-batch, which pytorch-metric-learning has."""

from __future__ import annotations

from typing import Any

from trainer.losses.batch import TaskBatch, TermValue
from trainer.losses.spec import Term


class PairTerm(Term):
    """A loss of the library on the batch's embeddings and labels."""

    def __init__(self, name: str, library_loss: Any, miner: Any = None) -> None:
        """Wrap a loss.

        Args:
            name: of the part that is shown.
            library_loss: takes embeddings, labels and what the miner found.
            miner: takes embeddings and labels; None for all pairs.
        """
        self._name = name
        self._library = library_loss
        self._miner = miner

    def __call__(self, batch: TaskBatch) -> TermValue:
        """The loss of the batch's embeddings; 0 where no two are of one class, or all are."""
        embedding, labels = batch.output.embedding, batch.labels
        mined = self._miner(embedding, labels) if self._miner is not None else None
        value = self._library(embedding, labels, mined)
        return TermValue(value, {self._name: value})
