"""Removes what a run no longer needs: old embeddings, tables and snapshots, finished bundles."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from clustering.table import store
from data_shards.atomic import read_json, remove_folder
from data_shards.errors import DataError
from data_shards.progress import OnStep, no_step
from trainer.run.folder import (
    CHECKPOINT_MANIFEST,
    SNAPSHOT_MANIFEST,
    RunFolder,
    checkpoint_steps,
    snapshot_steps,
    step_name,
    step_of,
)

logger = logging.getLogger(__name__)

_NEWEST_KEPT = 3
BUNDLES = "bundles"
"""In the folder of a task's embeddings: its finished classes, until its table is published."""


def prune(run: RunFolder, version: int, on_step: OnStep = no_step) -> None:
    """Keep what the newest versions and the checkpoints need, after a version was published.

    Args:
        run: the run's folder.
        version: the version just published; nothing newer is touched.
        on_step: called after each folder is removed.
    """
    for folder in run.embeddings.glob("step_*"):
        step = step_of(folder.name)
        if step is None or step < version:
            _remove_rest(folder)
            on_step()
    for bundles in (run.embeddings / step_name(version)).glob(f"*/{BUNDLES}"):
        _remove_rest(bundles)
        on_step()
    named = _needed_by_checkpoints(run)
    if named is None:
        return
    needed = {*named, version}
    for old in _removable(store.versions(run.tables), version, needed):
        remove_folder(run.tables / f"{old:06d}", store.MANIFEST_NAME)
        on_step()
    for old in _removable(snapshot_steps(run), version, needed):
        remove_folder(run.snapshots / step_name(old), SNAPSHOT_MANIFEST)
        on_step()


def _removable(steps: list[int], version: int, needed: set[int]) -> list[int]:
    # Newer ones are of a run that then resumed from an older checkpoint: they do not count.
    until_now = [step for step in steps if step <= version]
    return [step for step in until_now[:-_NEWEST_KEPT] if step not in needed]


def _needed_by_checkpoints(run: RunFolder) -> set[int] | None:
    """Versions that resuming from a checkpoint needs; None if a checkpoint cannot be read."""
    named: set[int] = set()
    for step in checkpoint_steps(run):
        path = run.checkpoints / step_name(step) / CHECKPOINT_MANIFEST
        try:
            feed = read_json(path)["state"]["feed"]
            named |= {int(version) for version in feed["requested"]}
            named |= {feed["version"]} - {None}
        except (DataError, KeyError, TypeError, ValueError) as error:
            logger.warning("no old table is removed while %s cannot be read (%s)", path, error)
            return None
    return named


def _remove_rest(folder: Path) -> None:
    # A late call that was given up may still write there; what it leaves is removed next time.
    shutil.rmtree(folder, ignore_errors=True)
