"""Embedding shards -> a cluster table, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clustering.config import ClusterConfig
from clustering.coordinator import cluster_embeddings
from clustering.execution.workers import LocalWorker
from clustering.table.table import ClusterTable


def cluster_locally(
    embeddings_folder: Path | str, *, config: ClusterConfig, **others: Any
) -> ClusterTable:
    """`cluster_embeddings` without Ray."""
    workers = LocalWorker(config)
    return cluster_embeddings(embeddings_folder, config=config, workers=workers, **others)
