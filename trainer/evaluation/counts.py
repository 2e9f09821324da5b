"""Per-class counts of correct predictions: distributed evaluation adds these up, nothing else.

Legend: N samples, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassCounts:
    """How many samples of each class there were, and how many were classified correctly."""

    correct: np.ndarray
    """(C,) int64."""
    total: np.ndarray
    """(C,) int64."""

    @classmethod
    def zero(cls, num_classes: int) -> ClassCounts:
        """Counts of no samples."""
        none = np.zeros(num_classes, np.int64)
        return cls(none, none)

    @classmethod
    def of(cls, predictions: np.ndarray, labels: np.ndarray, num_classes: int) -> ClassCounts:
        """Count (N,) int64 predictions against (N,) int64 labels in [0, C)."""
        hits = labels[predictions == labels]
        return cls(
            correct=np.bincount(hits, minlength=num_classes).astype(np.int64),
            total=np.bincount(labels, minlength=num_classes).astype(np.int64),
        )

    def __add__(self, other: ClassCounts) -> ClassCounts:
        """Counts over both sets of samples."""
        return ClassCounts(self.correct + other.correct, self.total + other.total)

    @property
    def per_class_recall(self) -> np.ndarray:
        """(C,) float64 in [0, 1]; NaN for a class without samples."""
        recall = np.full(len(self.total), np.nan)
        np.divide(self.correct, self.total, out=recall, where=self.total > 0)
        return recall

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that have samples, in [0, 1].

        For two classes this is the attribute metric 1/2 (tp/Np + tn/Nn) (LMLE, CVPR 2016).
        """
        return float(np.nanmean(self.per_class_recall)) if self.total.any() else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, in [0, 1]."""
        total = self.total.sum()
        return float(self.correct.sum() / total) if total else float("nan")
