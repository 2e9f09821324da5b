"""A table that takes long is no hang as long as it gets on, whatever the service does just now."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cluster_jobs.service import heartbeat, pruning
from cluster_jobs.service.executor import LocalExecutor
from cluster_jobs.service.heartbeat import Heartbeat, HeartbeatWatch, patience_seconds
from cluster_jobs.service.refresh import Refresher
from clustering.config import ClusterConfig
from clustering.execution import bundle_store
from clustering.table import matching, near_candidates, neighbours, quality, store
from data_shards.features import embeddings
from tests.cluster_jobs.conftest import TinyRun
from tests.helpers.reference_clustering import unit_rows
from trainer.run.folder import step_name
from trainer.state.snapshot import read_snapshot

STEP_SECONDS = 1300.0
PATIENCE = patience_seconds(ClusterConfig())

PHASES = {
    "reading ids and labels": (embeddings, "check_shard"),
    "reading finished classes": (bundle_store, "_load"),
    "looking up classes": (bundle_store.BundleStore, "_keys"),
    "numbering": (matching, "_places"),
    "neighbours": (neighbours, "_nearest"),
    "mutual information": (quality, "_of_some_clusters"),
    "checksums": (store, "sha256_of"),
    "removing": (pruning, "_remove_rest"),
}


class Clock:
    """Counts seconds of work that would be, and the longest time without progress."""

    def __init__(self) -> None:
        self.now = self.progress_at = self.longest = 0.0

    def progress(self) -> None:
        self.longest = max(self.longest, self.now - self.progress_at)
        self.progress_at = self.now


def lasting(function: Callable[..., Any], clock: Clock, seconds: float) -> Callable[..., Any]:
    def lasts(*args: Any, **kwargs: Any) -> Any:
        clock.now += seconds
        return function(*args, **kwargs)

    return lasts


@pytest.fixture
def nearly(tiny: TinyRun) -> TinyRun:
    """A run with two tables, and a third one that was not published."""
    executor = LocalExecutor(tiny.config.cluster)
    for step in (5, 10):
        Refresher(tiny.config, tiny.manifest, executor).serve(tiny.snapshot(step))
    snapshot = tiny.snapshot(15)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Refresher(tiny.config, tiny.manifest, executor).serve(snapshot)
    return tiny


def interrupted(*args: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("phase", PHASES)
def test_every_long_phase_of_a_refresh_shows_that_it_gets_on(
    nearly: TinyRun, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Each step lasts long, but less than the patience with a service; all together last more."""
    clock = Clock()
    monkeypatch.setattr(neighbours, "_SIBLING_ROWS", 3)
    where, name = PHASES[phase]
    monkeypatch.setattr(where, name, lasting(getattr(where, name), clock, STEP_SECONDS))
    refresher = Refresher(
        nearly.config,
        nearly.manifest,
        LocalExecutor(nearly.config.cluster),
        on_phase=lambda *_: clock.progress(),
        on_progress=clock.progress,
    )
    refresher.serve(read_snapshot(nearly.run.snapshots / step_name(15)))
    clock.progress()
    assert clock.now > PATIENCE
    assert clock.longest < PATIENCE


@pytest.mark.parametrize("hangs", [False, True])
def test_a_service_that_is_slow_lives_and_one_that_hangs_does_not(
    nearly: TinyRun, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    """As `clmle run` sees it: by the heartbeat alone."""
    monkeypatch.setattr(heartbeat, "RENEWED_SECONDS", 0.05)
    monkeypatch.setattr(neighbours, "_SIBLING_ROWS", 1)
    patience, nearest = 2.0, neighbours._nearest
    beat, watch, most_silent = Heartbeat(nearly.run), HeartbeatWatch(nearly.run), 0.0

    def slow(*args: Any, **kwargs: Any) -> Any:
        nonlocal most_silent
        until = time.monotonic() + (2.5 * patience if hangs and not most_silent else 0.4)
        while time.monotonic() < until:
            watch.poll()
            most_silent = max(most_silent, watch.silent_seconds)
            time.sleep(0.02)
        return nearest(*args, **kwargs)

    monkeypatch.setattr(neighbours, "_nearest", slow)
    begun = time.monotonic()
    with beat.renewed(patience):
        Refresher(
            nearly.config,
            nearly.manifest,
            LocalExecutor(nearly.config.cluster),
            on_phase=beat,
            on_progress=beat.progress,
        ).serve(read_snapshot(nearly.run.snapshots / step_name(15)))
    assert time.monotonic() - begun > 2 * patience
    assert (most_silent > patience) == hangs


def test_blocks_are_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where neighbours are approximate, or a class has very many clusters."""
    monkeypatch.setattr(near_candidates, "_BLOCK_ROWS", 100)
    monkeypatch.setattr(near_candidates, "_ADDED_ROWS", 100)
    monkeypatch.setattr(matching, "_SEARCHED_ROWS", 100)
    steps: list[str] = []

    def on_step() -> None:
        steps.append("a block")

    rows = unit_rows(np.random.default_rng(0), 1000, 8)
    class_of = np.arange(1000) // 10
    neighbours.neighbour_lists(
        rows, class_of, neighbours=5, siblings=0, exact_up_to=300, on_step=on_step
    )
    assert len(steps) >= 30
    steps.clear()
    matching._greedy(rows, rows, on_step)
    assert len(steps) >= 10
