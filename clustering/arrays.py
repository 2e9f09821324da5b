"""Clustering and kNC scores of arrays: in this process, without Ray and without files.

FAISS is imported when something is clustered; scores do not need it.

    table = clustering.cluster_arrays(embeddings, labels, target_size=100)
    scores = clustering.class_scores(queries, table)

Legend: N samples, D embedding, C classes.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from clustering.config import ClusterConfig
from clustering.kmeans.faiss_installed import require_faiss
from clustering.table.knc import Rule, knc_predict
from clustering.table.table import ClusterTable
from data_shards.errors import DataError

_UNIT_TOLERANCE = 1e-3
_TO_NUMBER = "names, labels = np.unique(labels, return_inverse=True)"
_TASK = "identity"


def cluster_arrays(
    embeddings: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    *,
    target_size: int = 200,
    seed: int = 0,
    previous: ClusterTable | None = None,
    **settings: Any,
) -> ClusterTable:
    """Cluster the samples of each class by direction: spherical k-means, class by class.

    The table is the one that `cluster_embeddings` makes of the same embeddings, settings and seed,
    to the last bit.

    Args:
        embeddings: (N, D) float16, float32 or float64, rows of length 1; computed in float32.
        labels: (N,) integers, class of each row: 0 .. C - 1, each with at least one sample.
        target_size: wanted mean size of a cluster; a class of n samples gets
            max(1, round(n / target_size)) clusters.
        seed: of the initialisation of k-means, >= 0.
        previous: an earlier table of these classes: its numbering is continued, the new table has
            its version plus one, and `init="warm"` starts from its centroids.
        settings: others of `ClusterConfig`, such as `iterations` or `init`.

    Returns:
        The table; its sample ids are row numbers of `embeddings`.

    Raises:
        DataError: on arrays of another shape or type, rows that are not finite or not of length 1,
            or labels that are negative or leave a class without a sample; a ValueError.
        ConfigError: on a setting that is out of range; a ValueError too.
        TypeError: on an unknown setting.
        ClusterError: when FAISS is not installed, or the backend of the settings does not work.
    """
    require_faiss()
    from clustering.coordinator import TableOrder, make_table
    from clustering.execution.rows import Rows
    from clustering.execution.workers import ArrayWorker

    started = time.monotonic()
    rows = unit_rows(embeddings)
    classes = _classes(labels, len(rows))
    config = ClusterConfig(target_size=target_size, **settings)
    if seed < 0:
        raise DataError(f"seed must be >= 0, got {seed}")
    if previous is not None:
        require_table(previous)
    order = TableOrder(
        task=_TASK if previous is None else previous.task,
        version=0 if previous is None else previous.version + 1,
        config=config,
        seed=seed,
        previous=previous,
    )
    return make_table(
        Rows.of_array(classes, rows.shape[1]), order, ArrayWorker(config, rows), started=started
    )


def class_scores(
    embeddings: npt.NDArray[np.floating],
    table: ClusterTable,
    *,
    rule: Rule = "balanced",
    num_neighbours: int = 50,
    scale: float = 16.0,
) -> npt.NDArray[np.float32]:
    """Score the classes of a table by the clusters that are nearest to each embedding (kNC).

    Args:
        embeddings: (N, D) float16, float32 or float64, rows of length 1, D that of the table.
        table: of the classes to choose from.
        rule: "balanced", "soft" or "margin"; `clustering.table.knc` has the formulas. Only
            "balanced" scores every class, however rare.
        num_neighbours: nearest clusters that vote, of each class for "balanced", in all otherwise;
            >= 1.
        scale: sharpness of the votes, > 0; of no effect on "margin".

    Returns:
        (N, C) float32, larger is better; -inf for a class with none of the clusters that vote.
        `scores.argmax(axis=1)` is the predicted class.

    Raises:
        DataError: on arrays of another shape or type, or rows that are not finite or not of length
            1; a ValueError.
        TypeError: when the table is something else.
        ValueError: on another dimension than the table's, or a setting out of range.
    """
    queries = unit_rows(embeddings)
    require_table(table)
    found = knc_predict(
        queries,
        table.centroids,
        table.class_of,
        num_classes=table.num_classes,
        rules=[rule],
        num_neighbours=num_neighbours,
        scale=scale,
        scored=[rule],
    )
    return found.scores[rule]


def require_table(table: object) -> None:
    """Refuse anything but a cluster table.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(table, ClusterTable):
        raise TypeError(f"table must be a ClusterTable, got {type(table).__name__}")


def require_vectors(embeddings: npt.NDArray[np.floating]) -> None:
    """Refuse anything but (N, D) floating point, N >= 1 and D >= 1.

    Raises:
        DataError: they are something else.
    """
    _require_array(embeddings, "embeddings")
    if embeddings.ndim != 2 or not embeddings.size:
        raise DataError(f"embeddings must be (N, D), N and D >= 1, got {embeddings.shape}")
    if embeddings.dtype.kind != "f":
        raise DataError(f"embeddings must be floating point, got {embeddings.dtype}")


def unit_rows(embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Check embeddings.

    Args:
        embeddings: (N, D) floating point, finite rows of length 1, N >= 1, D >= 1.

    Returns:
        (N, D) float32, C-contiguous; the array itself where it is that already.

    Raises:
        DataError: when they are something else; says how to normalise.
    """
    require_vectors(embeddings)
    rows = np.ascontiguousarray(embeddings, dtype=np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    # A comparison with NaN is False, so this finds what is not finite too.
    good = np.abs(lengths - 1.0) <= _UNIT_TOLERANCE
    if not good.all():
        first = int(np.argmin(good))
        what = (
            f"have length 1, got {lengths[first]:.4g}"
            if np.isfinite(rows[first]).all()
            else "be finite"
        )
        raise DataError(
            f"every embedding must {what} in row {first}; {np.count_nonzero(~good):,} of "
            f"{len(rows):,} rows are wrong. To normalise: "
            "embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)"
        )
    return rows


def _classes(labels: npt.NDArray[np.integer], num_rows: int) -> npt.NDArray[np.int64]:
    """Check labels."""
    _require_array(labels, "labels")
    is_integer = labels.dtype.kind in "iu"
    if labels.shape != (num_rows,) or not is_integer:
        hint = "" if is_integer else f". To number names: {_TO_NUMBER}"
        raise DataError(
            f"labels must be ({num_rows},) integers, one for each embedding, got {labels.dtype} "
            f"of shape {labels.shape}{hint}"
        )
    classes = labels.astype(np.int64)
    present = np.unique(classes)
    if present[0] < 0 or present[-1] >= len(present):
        if present[0] < 0:
            problem = f"row {int(np.argmin(classes))} has {present[0]}"
        else:
            missing = int(np.argmin(present == np.arange(len(present))))
            problem = f"class {missing} of {present[-1] + 1:,} has no sample"
        raise DataError(
            f"labels must be classes 0 .. C - 1, each with a sample: {problem}. To renumber: "
            f"{_TO_NUMBER}"
        )
    return classes


def _require_array(value: object, name: str) -> None:
    if not isinstance(value, np.ndarray):
        raise DataError(
            f"{name} must be a NumPy array, got {type(value).__name__}; of a torch tensor, take "
            "tensor.detach().cpu().numpy()"
        )
