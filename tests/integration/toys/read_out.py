"""A toy read-out: the class with the most training images, whatever the image."""

from __future__ import annotations

import numpy as np

from trainer.evaluation.readout import IntArray, Queries, ReadOut


def largest_class(queries: Queries) -> IntArray:
    """Queries -> (N,) the same class for each."""
    number = sum(map(len, queries.batches))
    return np.full(number, int(queries.context.class_counts.argmax()))


READ_OUT = ReadOut(name="toy", needs=frozenset(), predict=largest_class)
