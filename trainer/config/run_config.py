"""What a run is told: the sections of its YAML file, and what follows from them.

No torch here, so that every job can read a configuration at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clustering.config import ClusterConfig
from clustering.settings import MAY_CHANGE
from data_shards.errors import ConfigError
from trainer.config.readout_names import BLEND, HEAD_RETRAINED
from trainer.config.sections import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    LaunchConfig,
    ModelConfig,
    OptimConfig,
    RefreshConfig,
    RunSection,
    SamplerConfig,
    TaskConfig,
    TrainConfig,
)
from trainer.losses.loss_facts import LOSSES, Sampling
from trainer.losses.loss_section import LossConfig
from trainer.losses.schedule import step_at


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
    loss: LossConfig = field(default_factory=LossConfig)
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
        self._check_sampling()
        if self.loss.warmup_share and not self.loss.has_classifier:
            raise ConfigError(
                f"loss.clmle_from is {self.loss.clmle_from}, so only the softmax term is minimised "
                "until then, but loss.weight_softmax is 0; set it above 0, or clmle_from to 0"
            )
        self._check_stages()
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ConfigError(f"tasks: names must differ, got {', '.join(names)}")

    def _check_sampling(self) -> None:
        """Refuse batches by label for losses whose rivals are in the batch."""
        loss, name = self.loss, self.loss.name
        if not LOSSES[name].needs_table or self.sampling == "cluster":
            return
        if name == "clmle" and loss.candidates == "table":
            return
        remedy = ""
        if name == "clmle":
            remedy = ", or loss.candidates table and loss.mean_momentum above 0, such as 0.9"
        raise ConfigError(
            f"loss.name {name} needs sampler.sampling cluster (or auto), got {self.sampling!r}: an "
            "image is compared with the clusters of its batch, and images drawn by their labels "
            f"are rarely of similar clusters; set sampler.sampling cluster{remedy}"
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
        if self.clmle_start >= start:
            raise ConfigError(
                f"loss.clmle_from {self.loss.clmle_from} leaves no step for CLMLE among {start}; "
                "lower it, or raise train.steps"
            )

    @property
    def sampling(self) -> Sampling:
        """How images are drawn in the main part of the training; elsewhere: `sampling_at`."""
        if self.sampler.sampling != "auto":
            return self.sampler.sampling
        return LOSSES[self.loss.name].sampling

    @property
    def needs_tables(self) -> bool:
        """Whether it trains on cluster tables; one for the last evaluation is made anyway."""
        return LOSSES[self.loss.name].needs_table or self.sampling == "cluster"

    @property
    def classifier_start(self) -> int:
        """The first step of the classifier stage; the number of steps without one."""
        return self.train.steps - step_at(self.train.classifier_share, self.train.steps)

    @property
    def clmle_start(self) -> int:
        """The first step of CLMLE itself, with tables; 0 without a warm-up."""
        return step_at(self.loss.warmup_share, self.classifier_start)

    def sampling_at(self, step: int) -> Sampling:
        """How the images of a step are drawn."""
        if step >= self.classifier_start:
            return "class_balanced"
        return self.sampler.warmup_sampling if step < self.clmle_start else self.sampling

    @property
    def readout(self) -> str:
        """The read-out that the run's method is meant for: of CLMLE with a head, both together."""
        if self.train.classifier_share:
            return HEAD_RETRAINED
        if self.loss.name == "clmle" and self.loss.has_classifier:
            return BLEND
        return LOSSES[self.loss.name].readout

    @property
    def images_per_step(self) -> int:
        """Images of one optimiser step, over all ranks."""
        shape = self.sampler
        return shape.neighbourhoods * shape.clusters * shape.samples_per_cluster

    @property
    def run_path(self) -> Path:
        """`run.folder` as a path."""
        return Path(self.run.folder)

    def warnings(self) -> list[str]:
        """What the user is told when the run starts; each begins with the setting at issue."""
        told, loss = self.ignored_settings(), self.loss
        by_label = loss.name == "clmle" and self.sampling != "cluster"
        if by_label and not loss.mean_momentum:
            told.append(
                f"loss.candidates table with sampler.sampling {self.sampling} and "
                "loss.mean_momentum 0: where a cluster has one image in a micro-batch, that image "
                "is its own centroid, which draws it nowhere; set loss.mean_momentum above 0, such "
                "as 0.9"
            )
        return told

    def ignored_settings(self) -> list[str]:
        """Settings that differ from their default and have no effect on this run, in words."""
        default = RunConfig()
        ignored = self._ignored_by_loss(default)
        if not self.needs_tables and self.refresh.every:  # 0 asks for no tables
            ignored += [
                f"refresh.{name} is ignored: sampling {self.sampling} uses no table"
                for name in ("every", "lag")
                if getattr(self.refresh, name) != getattr(default.refresh, name)
            ]
        if self.sampling != "cluster":
            ignored += [
                f"sampler.{name} is ignored: it needs sampler.sampling cluster"
                for name in ("siblings", "seed_by", "max_clusters_per_class")
                if getattr(self.sampler, name) != getattr(default.sampler, name)
            ]
        elif self.sampler.siblings > (listed := self.cluster.listed_siblings):
            ignored.append(
                f"sampler.siblings beyond {listed} is ignored: it is cluster.listed_siblings"
            )
        read_out = self.needs_tables or self.loss.has_classifier or self.train.classifier_share
        if self.evaluation.every and not read_out:
            ignored.append(
                f"evaluation.every is ignored: loss.name {self.loss.name} has no classifier, and "
                "its tables are made at the end"
            )
        if LOSSES[self.loss.name].head == "cosine" or not self.loss.has_classifier:
            ignored += [
                f"evaluation.{name} is ignored: loss.name {self.loss.name} trains no linear head"
                for name in ("tau", "head_adjustment")
                if getattr(self.evaluation, name) != getattr(default.evaluation, name)
            ]
        if self.data.every_label and self.tasks:
            ignored.append("data.every_label is ignored: tasks are named")
        warmup_sampling = self.sampler.warmup_sampling
        if not self.clmle_start and warmup_sampling != default.sampler.warmup_sampling:
            ignored.append("sampler.warmup_sampling is ignored: loss.clmle_from is 0")
        if self.optim.name == "adamw" and self.optim.momentum != default.optim.momentum:
            ignored.append("optim.momentum is ignored by optim.name adamw")
        return ignored

    def _ignored_by_loss(self, default: RunConfig) -> list[str]:
        loss, facts = self.loss, LOSSES[self.loss.name]
        ignored = [
            f"loss.{item.name} is ignored by loss.name {loss.name}"
            for item in dataclasses.fields(loss)
            if item.name not in facts.settings | {"name"}
            and getattr(loss, item.name) != getattr(default.loss, item.name)
        ]
        if not loss.has_classifier:
            ignored += [
                f"loss.{name} is ignored: loss.weight_softmax is 0"
                for name in ("class_weight", "logit_adjustment", "spread")
                if name in facts.settings and getattr(loss, name) != getattr(default.loss, name)
            ]
        beta = loss.class_weight_beta
        if loss.class_weight != "effective_number" and beta != default.loss.class_weight_beta:
            ignored.append("loss.class_weight_beta is ignored: it needs effective_number")
        if loss.reweight_from and loss.class_weight == "none":
            ignored.append("loss.reweight_from is ignored: loss.class_weight is none")
        uses_input = facts.head != "cosine" or self.train.classifier_share
        if not uses_input and self.model.classifier_input != default.model.classifier_input:
            ignored.append(f"model.classifier_input is ignored by loss.name {loss.name}")
        return ignored

    def refresh_steps(self) -> range:
        """Steps at which a table is asked for during training; the last table comes on top."""
        if not self.needs_tables:
            return range(0)
        every = self.refresh.every or self.train.steps
        return range(self.clmle_start, self.classifier_start, every)


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dictionaries, lists and scalars (what YAML holds)."""
    plain = dataclasses.asdict(config)
    if "tasks" in plain:
        plain["tasks"] = list(plain["tasks"])
    return plain
