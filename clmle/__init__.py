"""CLMLE for notebooks: one importable name for the loss, clusters, kNC scores, shards and runs.

    import clmle

Names are imported when they are first used, so this import takes no time. The `clmle` command does
not need this package. Embeddings may have rows of any length: only their directions count.
"""

from __future__ import annotations

import importlib
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


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("clmle")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
