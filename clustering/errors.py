"""The error of this package."""

from __future__ import annotations


class ClusterError(RuntimeError):
    """Clusters that cannot be made, kept or read; says what was found and what to do."""
