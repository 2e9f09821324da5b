"""CLMLE for notebooks: one importable name for the loss, clusters, kNC scores, shards and runs.

    import clmle

Names are imported when they are first used, so this import takes no time. The `clmle` command does
not need this package. Embeddings may have rows of any length: only their directions count.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from clmle.own_packages import require_own_packages

if TYPE_CHECKING:
    from clmle.clusters import ClusterTable, cluster, cluster_ids, knc_scores
    from clmle.loss import ClmleLoss
    from clmle.shard_images import ShardImages, read_shards
    from clmle.trained_run import Classified, TrainedRun, load_run

__all__ = [
    "Classified",
    "ClmleLoss",
    "ClusterTable",
    "ShardImages",
    "TrainedRun",
    "cluster",
    "cluster_ids",
    "knc_scores",
    "load_run",
    "read_shards",
]

_MODULES = {
    "Classified": "clmle.trained_run",
    "ClmleLoss": "clmle.loss",
    "ClusterTable": "clmle.clusters",
    "ShardImages": "clmle.shard_images",
    "TrainedRun": "clmle.trained_run",
    "cluster": "clmle.clusters",
    "cluster_ids": "clmle.clusters",
    "knc_scores": "clmle.clusters",
    "load_run": "clmle.trained_run",
    "read_shards": "clmle.shard_images",
}
"""Public name -> the module that holds it."""

require_own_packages()

from data_shards.public_names import imported_when_used  # noqa: E402 - checked to be ours

_getattr, __dir__ = imported_when_used(__name__, _MODULES)


def __getattr__(name: str) -> Any:
    return version("clmle") if name == "__version__" else _getattr(name)
