"""`RUN/report.json`: the results of a finished training run. Written last, by rank 0."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from data_shards.atomic import write_json
from trainer.config.run_config import RunConfig
from trainer.run.folder import RunFolder
from trainer.runtime.table_feed import FeedState

_REPORTED_PACKAGES = (
    "clmle",
    "torch",
    "deepspeed",
    "ray",
    "faiss-cpu",
    "faiss-gpu",
    "numpy",
    "pytorch-metric-learning",
)


# Warn above both.
_LONG_STALL_FRACTION = 0.1
_LONG_STALL_SECONDS = 60


def stall_fraction(feed: FeedState, train_seconds: float) -> float:
    """Share of the training time, in [0, 1], that was spent waiting for tables."""
    return feed.stall_seconds / (train_seconds + feed.stall_seconds)


def stall_warning(config: RunConfig, feed: FeedState, train_seconds: float) -> str | None:
    """A warning, with remedies, if training waited long for tables; None otherwise."""
    share = stall_fraction(feed, train_seconds)
    if share < _LONG_STALL_FRACTION or feed.stall_seconds < _LONG_STALL_SECONDS:
        return None
    every, lag = config.refresh.every, config.refresh.lag
    longer = f"raise refresh.lag (now {lag}, at most refresh.every = {every}), or " * (lag < every)
    return (
        f"training waited {feed.stall_seconds:.0f} s ({share:.0%}) for tables: "
        f"{longer}give the clustering service more CPUs or GPUs (cluster.num_workers, "
        "launch.embed_gpus)"
    )


def write_report(
    run: RunFolder,
    config: RunConfig,
    *,
    evaluation: Mapping[str, Any],
    feed: FeedState,
    train_seconds: float,
    world_size: int,
) -> None:
    """Write the report; if it exists, the training run has finished.

    Args:
        run: the run's folder.
        config: the run's configuration.
        evaluation: the final evaluation; empty without a test split.
        feed: which tables were used when, and how long training waited for them.
        train_seconds: time in training steps, without start-up, tables and evaluation.
        world_size: number of ranks.
    """
    images = config.train.steps * config.images_per_step
    write_json(
        run.report,
        {
            "balanced_accuracy": {},
            "per_class_recall": {},
            **evaluation,
            "loss": config.loss.name,
            "readout": config.readout,
            "sampling": config.sampling,
            "steps": config.train.steps,
            "images_seen": images,
            "images_per_second": images / train_seconds,
            "train_seconds": train_seconds,
            "tables_published": len({version for _, version in feed.switches}),
            "table_switches": feed.switches,
            "refresh_stall_seconds": feed.stall_seconds,
            "refresh_stall_fraction": stall_fraction(feed, train_seconds),
            "world_size": world_size,
            "seed": config.run.seed,
            "versions": _versions(),
        },
    )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _REPORTED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
