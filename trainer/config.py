"""What a run is told: the sections of its YAML file, and what follows from them.

No torch here, so that every job can read a configuration at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clustering.config import ClusterConfig
from trainer.errors import ConfigError
from trainer.sections import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    LaunchConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RefreshConfig,
    RunSection,
    SamplerConfig,
    TaskConfig,
    TrainConfig,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """A whole run."""

    run: RunSection = field(default_factory=RunSection)
    data: DataConfig = field(default_factory=DataConfig)
    tasks: tuple[TaskConfig, ...] = ()
    """The tasks. Empty = one task, the first label column of the shards."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    refresh: RefreshConfig = field(default_factory=RefreshConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Other methods that `clmle run` trains after the run itself, on as many images, for its
    comparison table: name -> settings that differ, as in `--set` (`loss.name: softmax`)."""

    def __post_init__(self) -> None:
        if self.loss.name == "clmle" and self.sampling != "cluster":
            raise ConfigError(
                f"loss.name clmle needs sampler.sampling cluster (or auto), got {self.sampling!r}: "
                "its loss is defined on neighbourhoods of clusters"
            )
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ConfigError(f"tasks: names must differ, got {', '.join(names)}")

    @property
    def sampling(self) -> Literal["cluster", "instance", "class_balanced"]:
        """How images are drawn, with `auto` decided."""
        if self.sampler.sampling != "auto":
            return self.sampler.sampling
        return "cluster" if self.loss.name == "clmle" else "instance"

    @property
    def images_per_step(self) -> int:
        """Images of one optimiser step, over all ranks."""
        shape = self.sampler
        return shape.neighbourhoods * shape.clusters * shape.samples_per_cluster

    @property
    def run_path(self) -> Path:
        """`run.folder` as a path."""
        return Path(self.run.folder)

    def ignored_settings(self) -> list[str]:
        """Settings that differ from their default and have no effect on this run, in words."""
        ignored = []
        default = RunConfig()
        if self.loss.name == "softmax":
            for name in ("scale", "margin_between", "margin_within", "weight_within", "candidates"):
                if getattr(self.loss, name) != getattr(default.loss, name):
                    ignored.append(f"loss.{name} is ignored by loss.name softmax")
        if self.sampling != "cluster" and self.refresh.every not in (0, default.refresh.every):
            ignored.append(f"refresh.every is ignored: sampling {self.sampling} uses no table")
        bare = self.loss.name == "clmle" and self.loss.weight_softmax == 0
        if bare and self.loss.class_weight != "none":
            ignored.append("loss.class_weight is ignored: loss.weight_softmax is 0")
        if self.optim.name == "adamw" and self.optim.momentum != default.optim.momentum:
            ignored.append("optim.momentum is ignored by optim.name adamw")
        return ignored

    def refresh_steps(self) -> range:
        """Steps at which a table is asked for during training; the last table comes on top."""
        uses_tables = self.sampling == "cluster"
        if not uses_tables:
            return range(0)
        return range(0, self.train.steps, self.refresh.every or self.train.steps)


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dictionaries, lists and scalars (what YAML holds)."""
    plain = dataclasses.asdict(config)
    if "tasks" in plain:
        plain["tasks"] = list(plain["tasks"])
    return plain
