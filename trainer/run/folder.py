"""The layout of a run's folder: the interface of trainer, clustering service and evaluator."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from clustering.settings import fixed_settings
from data_shards.atomic import atomic_file, read_json
from data_shards.errors import ConfigError, DataError
from trainer.config.run_config import RunConfig, as_dict
from trainer.config.shipped import RUN_CONFIG
from trainer.config.yaml_file import load_config, to_yaml


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

    def claim(self, config: RunConfig, *, fresh: bool) -> None:
        """Claim the folder for this run and write its configuration.

        Launcher, service and trainer may all claim the same folder for the same run.

        Args:
            config: the run's configuration.
            fresh: the caller starts from the first step, so there must be no checkpoint.

        Raises:
            ConfigError: the folder cannot be written, holds another run or other files, or (fresh)
                has checkpoints.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot create the run folder {self.path}: {error.strerror}; "
                "set run.folder to a place that you can write to"
            ) from error
        if not os.access(self.path, os.W_OK):
            raise ConfigError(f"cannot write to the run folder {self.path}; set run.folder")
        self._check_not_foreign()
        if self.config.exists():
            self._check_same_run(config)
        if fresh and self.checkpoints.exists():
            raise ConfigError(
                f"{self.path} already holds checkpoints of this run: continue with --resume auto, "
                "or set another run.folder, or remove the folder"
            )
        with atomic_file(self.config) as temporary:
            temporary.write_text(to_yaml(config), encoding="utf-8")

    def _check_not_foreign(self) -> None:
        # Listed before looking for the configuration, which a process that claims at the same time
        # writes before anything else.
        names = sorted(entry.name for entry in self.path.iterdir())
        foreign = [n for n in names if n not in _BEFORE_CLAIM and not n.startswith(".")]
        if foreign and not self.config.exists():
            more = f" and {len(foreign) - 3:,} more" if len(foreign) > 3 else ""
            raise ConfigError(
                f"{self.path} holds {', '.join(foreign[:3])}{more} but no {self.config.name}: "
                "expected a new or empty folder, or a run's; set run.folder to another folder"
            )

    def _check_same_run(self, config: RunConfig) -> None:
        other = load_config(self.config)
        mine, theirs = _identity(config), _identity(other)
        differing = sorted(key for key in mine if mine[key] != theirs.get(key))
        if differing:
            shown = ", ".join(f"{k} ({theirs.get(k)} there, {mine[k]} here)" for k in differing[:3])
            raise ConfigError(
                f"the run folder {self.path} already holds another run: {shown}; "
                "set run.folder to a new folder, or remove this one"
            )


def checkpoint_steps(run: RunFolder) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    if not run.checkpoints.is_dir():
        return []
    steps = {step_of(f.parent.name) for f in run.checkpoints.glob(f"*/{CHECKPOINT_MANIFEST}")}
    return sorted(step for step in steps if step is not None)


def is_service_given_up(run: RunFolder) -> bool:
    """Whether `clmle run` has recorded that no further table will be made."""
    try:
        return read_json(run.service).get("state") == GIVEN_UP
    except DataError:
        return False


# What a run's folder may hold before its configuration: the parts start in any order.
_BEFORE_CLAIM = (
    *("snapshots", "embeddings", "tables", "tensorboard", "evaluation", "report.json"),
    *("logs", "run.lock", "service.lock", "trainer.lock", "service.json", "baselines"),
)


def _identity(config: RunConfig) -> dict[str, object]:
    """The settings that define the run; all others may change when it is resumed."""
    # The same folder may be given as an absolute or as a relative path.
    shards = str(Path(config.data.shards).resolve())
    return fixed_settings(config) | {"data.shards": shards, "tasks": as_dict(config)["tasks"]}
