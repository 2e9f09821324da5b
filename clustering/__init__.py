"""Vectors, labels, tables: per-class k-means, the cluster table and its store, kNC scores.

The names in `__all__` are public and imported when first used, so that `import clustering` needs
neither FAISS nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clustering.arrays import class_scores, cluster_arrays
    from clustering.config import ClusterConfig
    from clustering.errors import ClusterError
    from clustering.table.table import ClusterTable

__all__ = ["ClusterConfig", "ClusterError", "ClusterTable", "class_scores", "cluster_arrays"]

_MODULES = {
    "ClusterConfig": "clustering.config",
    "ClusterError": "clustering.errors",
    "ClusterTable": "clustering.table.table",
    "class_scores": "clustering.arrays",
    "cluster_arrays": "clustering.arrays",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
