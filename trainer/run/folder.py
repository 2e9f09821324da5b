"""The layout of a run's folder: the interface of trainer, clustering service and evaluator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_shards.atomic import read_json
from data_shards.errors import DataError
from data_shards.replacing import finish_replacements
from trainer.config.shipped import RUN_CONFIG


def step_name(step: int) -> str:
    """Name of a step's files and folders: "step_000200"."""
    return f"step_{step:06d}"


def step_of(name: str) -> int | None:
    """The step in such a name; None for any other name, such as a temporary one."""
    head, _, digits = name.partition("_")
    return int(digits) if head == "step" and digits.isdigit() else None


CHECKPOINT_MANIFEST = "manifest.json"
"""File that marks a checkpoint as complete; written last."""
SNAPSHOT_CHECKSUM = "snapshot_checksum"
"""Of the stats of a table: the checksum of the snapshot that it is made from."""
SNAPSHOT_MANIFEST = "manifest.json"
"""File that marks a snapshot as complete."""
SNAPSHOT_WEIGHTS = "weights.safetensors"
"""File with a snapshot's weights."""
GIVEN_UP = "given up"
"""State in `RUN/service.json` of a clustering service that will not be restarted."""


@dataclass(frozen=True)
class RunFolder:
    """Paths under `run.folder`; reading a property creates nothing."""

    path: Path

    @property
    def config(self) -> Path:  # noqa: D102
        return self.path / RUN_CONFIG

    @property
    def snapshots(self) -> Path:  # noqa: D102
        return self.path / "snapshots"

    @property
    def embeddings(self) -> Path:  # noqa: D102
        return self.path / "embeddings"

    @property
    def tables(self) -> Path:  # noqa: D102
        return self.path / "tables"

    @property
    def checkpoints(self) -> Path:  # noqa: D102
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:  # noqa: D102
        return self.path / "tensorboard"

    @property
    def metrics(self) -> Path:  # noqa: D102
        return self.path / "metrics.jsonl"

    def metrics_of(self, part: str | None) -> Path:
        """Metrics file of a part of the system; None = the trainer, whose file is `metrics`."""
        return self.metrics if part is None else self.path / f"{part}_metrics.jsonl"

    @property
    def evaluation(self) -> Path:  # noqa: D102
        return self.path / "evaluation"

    @property
    def report(self) -> Path:  # noqa: D102
        return self.path / "report.json"

    @property
    def logs(self) -> Path:  # noqa: D102
        return self.path / "logs"

    @property
    def service(self) -> Path:  # noqa: D102
        return self.path / "service.json"


def checkpoint_steps(run: RunFolder) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    if not run.checkpoints.is_dir():
        return []
    steps = {step_of(f.parent.name) for f in run.checkpoints.glob(f"*/{CHECKPOINT_MANIFEST}")}
    return sorted(step for step in steps if step is not None)


def snapshot_steps(run: RunFolder) -> list[int]:
    """Steps of the complete snapshots, ascending."""
    if not run.snapshots.is_dir():
        return []
    finish_replacements(run.snapshots)
    steps = {step_of(f.parent.name) for f in run.snapshots.glob(f"*/{SNAPSHOT_MANIFEST}")}
    return sorted(step for step in steps if step is not None)


def newest_checkpoint(run: RunFolder) -> Path | None:
    """The complete checkpoint of the highest step; None if there is none."""
    steps = checkpoint_steps(run)
    return run.checkpoints / step_name(steps[-1]) if steps else None


def newest_snapshot(run: RunFolder) -> Path | None:
    """The complete snapshot of the highest step; None if there is none."""
    steps = snapshot_steps(run)
    return run.snapshots / step_name(steps[-1]) if steps else None


def is_service_given_up(run: RunFolder) -> bool:
    """Whether `clmle run` has recorded that no further table will be made."""
    try:
        return read_json(run.service).get("state") == GIVEN_UP
    except DataError:
        return False
