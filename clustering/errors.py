"""The error of this package."""

from __future__ import annotations

from data_shards.errors import MISTAKE, ClmleError


class ClusterError(ClmleError, RuntimeError):
    """Clusters that cannot be made, kept or read."""


class FaissMissingError(ClusterError):
    """FAISS is not installed."""

    exit_code = MISTAKE
