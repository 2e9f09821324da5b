"""Vectors, labels, tables: per-class k-means, the cluster table and its store, kNC scores.

The names in `__all__` are public and imported when first used, so that `import clustering` needs
neither FAISS nor Ray.
"""

from typing import TYPE_CHECKING

from data_shards.public_names import imported_when_used

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

__getattr__, __dir__ = imported_when_used(__name__, _MODULES)
