"""A run's configuration: the sections of its YAML file, and what follows from them.

No torch here, so that every job can read a configuration at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clustering.config import ClusterConfig
from clustering.settings import MAY_CHANGE, changed
from data_shards.errors import ConfigError
from trainer.config.readout_names import HEAD_RETRAINED
from trainer.config.sampler_section import SamplerConfig
from trainer.config.sections import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    LaunchConfig,
    ModelConfig,
    OptimConfig,
    RefreshConfig,
    RunSection,
    TaskConfig,
    TrainConfig,
)
from trainer.losses.clmle import ClmleSettings
from trainer.losses.registry import LOSSES
from trainer.losses.schedule import step_at
from trainer.losses.spec import LossSettings, LossSpec, Sampling


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """A whole run."""

    run: RunSection = field(default_factory=RunSection)
    data: DataConfig = field(default_factory=DataConfig)
    # What the recipe derives is in the values themselves.
    recipe: Literal["long_tail", "none"] = field(default="long_tail", metadata=MAY_CHANGE)
    """long_tail = settings that the file and `--set` leave open follow from the class histogram of
    data.shards (docs/methods.md); none = they have the defaults below, which are the plain
    equation's."""
    tasks: tuple[TaskConfig, ...] = ()
    """The tasks. Empty = one task, the first label column of the shards."""
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossSettings = field(default_factory=ClmleSettings)
    """What is minimised: `loss.name`, and the settings of that loss alone (docs/methods.md)."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    refresh: RefreshConfig = field(default_factory=RefreshConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata=MAY_CHANGE)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig, metadata=MAY_CHANGE)
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict, metadata=MAY_CHANGE)
    """Other methods that `clmle run` trains after the run itself, on as many images, for its
    comparison table: name -> settings that differ, as in `--set` (`loss.name: softmax`). One with
    another loss.name than the run has none of the run's loss section, sampler.sampling and
    sampler.warmup_sampling, but their defaults and its own; refresh.every is 0 unless set."""

    def __post_init__(self) -> None:
        if type(self.loss) is not self.loss_spec.settings:
            raise ConfigError(
                f"loss.name {self.loss.name} has the settings {self.loss_spec.settings.__name__}, "
                f"got {type(self.loss).__name__}; give it its own"
            )
        self._check_sampling()
        self._check_stages()
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ConfigError(f"tasks: names must differ, got {', '.join(names)}")

    def _check_sampling(self) -> None:
        """Refuse batches by label for losses whose rivals are in the batch."""
        self.sampler.check_shape(self.sampling)
        loss = self.loss
        if self.sampling == "cluster" or not loss.compares_within_batch:
            return
        raise ConfigError(
            f"loss.name {loss.name} needs sampler.sampling cluster (or auto), got "
            f"{self.sampling!r}: an image is compared with the clusters of its batch, and images "
            "drawn by their labels are rarely of similar clusters; set sampler.sampling "
            f"cluster{loss.sampling_remedy}"
        )

    def _check_stages(self) -> None:
        """Refuse stages without a step."""
        share, start = self.train.classifier_share, self.classifier_start
        if share and not 0 < start < self.train.steps:
            raise ConfigError(
                f"train.classifier_share {share} of {self.train.steps} steps leaves "
                f"{self.train.steps - start} for the classifier and {start} for all else; "
                "each needs at least one"
            )
        if self.warmup_end >= start:
            raise ConfigError(
                f"loss.warmup_share {self.loss.warmup_share} leaves no step for {self.loss.name} "
                f"among {start}; lower it, or raise train.steps"
            )

    @property
    def loss_spec(self) -> LossSpec:
        """The description of the run's loss."""
        return LOSSES[self.loss.name]

    @property
    def sampling(self) -> Sampling:
        """How images are drawn in the main part of the training run; elsewhere: `sampling_at`."""
        if self.sampler.sampling != "auto":
            return self.sampler.sampling
        return self.loss_spec.sampling

    @property
    def needs_tables(self) -> bool:
        """Whether it trains on cluster tables; one for the last evaluation is made anyway."""
        return self.loss_spec.needs_table or self.sampling == "cluster"

    @property
    def classifier_start(self) -> int:
        """The first step of the classifier stage; the number of steps without one."""
        return self.train.steps - step_at(self.train.classifier_share, self.train.steps)

    @property
    def warmup_end(self) -> int:
        """The first step of the loss itself, with its tables; 0 without a warm-up."""
        return step_at(self.loss.warmup_share, self.classifier_start)

    def sampling_at(self, step: int) -> Sampling:
        """How the images of a step are drawn."""
        if step >= self.classifier_start:
            return "class_balanced"
        return self.sampler.warmup_sampling if step < self.warmup_end else self.sampling

    @property
    def readout(self) -> str:
        """The read-out that the run's method is meant for: of CLMLE with a head, both together."""
        if self.train.classifier_share:
            return HEAD_RETRAINED
        return self.loss_spec.readout_of(self.loss)

    @property
    def images_per_step(self) -> int:
        """Images of one optimiser step, over all ranks."""
        return self.sampler.micro_batches * self.sampler.micro_batch_size

    @property
    def run_path(self) -> Path:
        """`run.folder` as a path."""
        return Path(self.run.folder)

    def warnings(self) -> list[str]:
        """What the user is told when the run starts; each begins with the setting at issue."""
        return [*self.ignored_settings(), *self.loss.warnings(self.sampling)]

    def ignored_settings(self) -> list[str]:
        """Settings that differ from their default and have no effect on this run, in words."""
        return [
            *self.loss.ignored_settings(),
            *self._ignored_by_sampling(),
            *self._ignored_by_read_outs(),
            *self._ignored_elsewhere(),
        ]

    def _ignored_by_sampling(self) -> Iterator[str]:
        """Settings of tables and batches that the sampling does not use."""
        sampler, sampling = self.sampler, self.sampling
        if not self.needs_tables and self.refresh.every:  # 0 asks for no tables
            for name in changed(self.refresh, "every", "lag"):
                yield f"refresh.{name} is ignored: sampling {sampling} uses no table"
        if sampling != "cluster":
            shape = ("siblings", "seed_by", "max_clusters_per_class")
            for name in changed(sampler, *shape):
                yield f"sampler.{name} is ignored: it needs sampler.sampling cluster"
        elif sampler.siblings > (listed := self.cluster.listed_siblings):
            yield f"sampler.siblings beyond {listed} is ignored: it is cluster.listed_siblings"
        if not self.warmup_end:
            for name in changed(sampler, "warmup_sampling"):
                yield f"sampler.{name} is ignored: there is no loss.warmup_share"

    def _ignored_by_read_outs(self) -> Iterator[str]:
        loss = self.loss
        cosine = self.loss_spec.head == "cosine"
        if cosine and not self.train.classifier_share:
            for name in changed(self.model, "classifier_input"):
                yield f"model.{name} is ignored by loss.name {loss.name}"
        read_out = self.needs_tables or loss.has_classifier or self.train.classifier_share
        if self.evaluation.every and not read_out:
            yield (
                f"evaluation.every is ignored: loss.name {loss.name} has no classifier, and its "
                "tables are made at the end"
            )
        if cosine or not loss.has_classifier:
            for name in changed(self.evaluation, "tau", "head_adjustment"):
                yield f"evaluation.{name} is ignored: loss.name {loss.name} trains no linear head"

    def _ignored_elsewhere(self) -> Iterator[str]:
        if self.data.every_label and self.tasks:
            yield "data.every_label is ignored: tasks are named"
        if self.optim.name == "adamw":
            for name in changed(self.optim, "momentum"):
                yield f"optim.{name} is ignored by optim.name adamw"

    def refresh_steps(self) -> range:
        """Steps at which a table is asked for during training; the last table comes on top."""
        if not self.needs_tables:
            return range(0)
        every = self.refresh.every or self.train.steps
        return range(self.warmup_end, self.classifier_start, every)


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dictionaries, lists and scalars (what YAML holds)."""
    plain = dataclasses.asdict(config)
    if "tasks" in plain:
        plain["tasks"] = list(plain["tasks"])
    return plain
