"""What the driver knows of the embeddings of a task: everything but the vectors.

Legend: N samples, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clustering.errors import ClusterError
from data_shards.features.embedding_shard import EmbeddingShardInfo
from data_shards.features.embeddings import EmbeddingShards
from data_shards.progress import OnStep, no_step


@dataclass(kw_only=True)
class Rows:
    """Ids and classes of the samples, and where their vectors are."""

    folder: str
    """The embedding shards; "" for an array in memory."""
    shards: tuple[EmbeddingShardInfo, ...]
    origin: str
    """What decides the embeddings, weights and data among it."""
    dim: int
    ids: npt.NDArray[np.int64]
    """(N,) sample ids by row number."""
    class_sizes: npt.NDArray[np.int64]
    """(C,) rows of each class."""
    by_class: npt.NDArray[np.integer]
    """(N,) row numbers, class after class, those of a class by sample id: k-means depends on their
    order, and the order of the rows in the shards on who embedded them."""

    @classmethod
    def read(cls, folder: Path, num_classes: int, on_step: OnStep = no_step) -> Rows:
        """Read ids and labels, and compare them with their checksums; a step is a shard.

        Raises:
            ClusterError: when there are other classes.
            DataError: when the embeddings are not finished or damaged.
        """
        shards = EmbeddingShards.open(folder, verify_vectors=False, on_step=on_step)
        return cls(
            folder=str(folder),
            shards=shards.shards,
            origin=shards.origin,
            dim=shards.dim,
            ids=shards.ids,
            class_sizes=_class_sizes(shards, num_classes),
            by_class=_by_class(shards.ids, shards.labels),
        )

    @classmethod
    def of_array(cls, labels: npt.NDArray[np.int64], dim: int) -> Rows:
        """The rows of an array; their numbers are the sample ids.

        Args:
            labels: (N,) class of each row, 0 .. C - 1.
            dim: D.
        """
        ids = np.arange(len(labels))
        return cls(
            folder="",
            shards=(),
            origin="array",
            dim=dim,
            ids=ids,
            class_sizes=np.bincount(labels),
            by_class=_by_class(ids, labels),
        )


def _class_sizes(shards: EmbeddingShards, num_classes: int) -> npt.NDArray[np.int64]:
    """(C,) rows of each class."""
    outside = (shards.labels < 0) | (shards.labels >= num_classes)
    if outside.any():
        first = int(np.argmax(outside))
        raise ClusterError(
            f"{np.count_nonzero(outside)} embeddings in {shards.folder} have classes outside of "
            f"0..{num_classes - 1}, the first is of sample {shards.ids[first]}, class "
            f"{shards.labels[first]}: they were made from other data; embed again"
        )
    return np.bincount(shards.labels, minlength=num_classes)


def _by_class(ids: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.integer]:
    """(N,) row numbers by class, then id."""
    in_order = bool(np.all(ids[1:] > ids[:-1]))
    by_class = np.argsort(labels, kind="stable") if in_order else np.lexsort((ids, labels))
    # int32 is half as much to hold and to send.
    return by_class.astype(np.int32) if len(by_class) < 2**31 else by_class
