"""The sections of a run's configuration, each a frozen dataclass that checks itself.

Each field's meaning stands under it as a string; `docs/configuration.md` is made from them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from clustering.settings import MAY_CHANGE
from data_shards.errors import require as _require
from data_shards.paths import home_expanded
from data_shards.streams import is_utf8
from trainer.config.deepspeed_extra import check_deepspeed_extra

UserPath = Annotated[str, home_expanded]
"""A path that may begin with `~`; the builder calls the function."""

_SEEDS = 2**64  # torch takes no larger one


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSection:
    """Where a run lives, and the one seed from which all its randomness comes."""

    folder: UserPath = field(default="runs/unnamed", metadata=MAY_CHANGE)
    """Everything that the run writes goes here. Relative to where the command is run."""

    seed: int = 0
    """Seed of initial weights, batches, augmentation and k-means. Same seed, same run."""

    def __post_init__(self) -> None:
        _require(bool(self.folder), "run.folder", "a path", self.folder)
        utf8 = "in UTF-8, as TensorBoard and Ray need it (set LC_ALL=C.UTF-8, or another folder)"
        _require(is_utf8(self.folder), "run.folder", utf8, self.folder)
        _require(0 <= self.seed < _SEEDS, "run.seed", "in [0, 2^64)", self.seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """The images, and how they are varied in training."""

    shards: UserPath = ""
    """Folder that `clmle import` wrote; holds the train split and, for evaluation, a test split."""

    every_label: bool = False
    """Where `tasks` names none, every label column is a task, such as the 40 attributes of CelebA;
    false = the first one only."""

    shift: int = 2
    """Largest random shift of a training image, in pixels, in both directions. 0 = none."""

    flip: bool = False
    """Mirror every second training image, drawn at random. Right for faces, wrong for digits."""

    reader_threads: int = field(default=2, metadata=MAY_CHANGE)
    """Threads per rank that read and decode coming batches. 0 = decode when the batch is needed."""

    prefetch_batches: int = field(default=4, metadata=MAY_CHANGE)
    """Micro-batches per rank that are read ahead."""

    cache_mib: int = field(default=256, metadata=MAY_CHANGE)
    """Memory per rank for images once they are decoded, in MiB; images that do not fit are decoded
    every time. 0 = none is kept."""

    def __post_init__(self) -> None:
        _require(self.shift >= 0, "data.shift", ">= 0 pixels", self.shift)
        _require(self.reader_threads >= 0, "data.reader_threads", ">= 0", self.reader_threads)
        _require(self.prefetch_batches >= 1, "data.prefetch_batches", ">= 1", self.prefetch_batches)
        _require(self.cache_mib >= 0, "data.cache_mib", ">= 0 MiB", self.cache_mib)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskConfig:
    """One thing to learn: a label column, with a head, a cluster table and a sampler of its own."""

    name: str
    """Name of the task in tables, metrics and reports."""

    label: str
    """Label column of the shards (see `manifest.json`)."""

    weight: float = 1.0
    """Weight of this task's loss in the sum."""

    def __post_init__(self) -> None:
        is_name = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", self.name) is not None
        _require(
            is_name and self.name != "manifest",
            "tasks[].name",
            "a letter or digit, then letters, digits, - and _ (it becomes a file name), and not "
            "manifest",
            self.name,
        )
        _require(self.weight > 0, f"weight of task {self.name}", "> 0", self.weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The network: a backbone and, for each task, an embedding head."""

    backbone: str = "tiny"
    """tiny | iresnet18 | iresnet34 | iresnet50 | iresnet100 | timm:NAME (needs the timm extra)."""

    channels: Literal[1, 3] = 1
    """1 = grey, 3 = RGB; images are converted."""

    input_size: int = 28
    """Side of the square that images are scaled to, in pixels."""

    embedding_dim: int = 32
    """Length D of an embedding."""

    classifier_input: Literal["features", "embedding"] = "features"
    """What the softmax head sees: the embedding before normalisation, or after it (scaled)."""

    weights: UserPath = field(default="", metadata=MAY_CHANGE)
    """Initial weights: a snapshot of another run (RUN/snapshots/step_000200), or a
    .safetensors file of a backbone. All of the backbone must be in it; heads are loaded where they
    fit, others are initialised at random. "" = all at random."""

    def __post_init__(self) -> None:
        _require(self.input_size >= 8, "model.input_size", ">= 8 pixels", self.input_size)
        _require(self.embedding_dim >= 2, "model.embedding_dim", ">= 2", self.embedding_dim)


@dataclass(frozen=True, kw_only=True, slots=True)
class RefreshConfig:
    """When the cluster table is made again, and what happens if it is late."""

    every: int = 100
    """Steps between two requests for a table. 0 = only the first and the last table."""

    lag: int = 10
    """The table of the weights of step t is switched to at step t + lag, on all ranks at once.
    0 = training waits for it."""

    on_late: Literal["wait", "continue"] = field(default="wait", metadata=MAY_CHANGE)
    """wait = all ranks wait for the table (deterministic); continue = keep the old one, switch
    when the new one is there."""

    timeout_seconds: float = field(default=1200.0, metadata=MAY_CHANGE)
    """How long ranks wait for a table before the run fails (with on_late continue: only for the
    first table, and for the last before it evaluates with an older one)."""

    def __post_init__(self) -> None:
        _require(self.every >= 0, "refresh.every", ">= 0 steps", self.every)
        _require(self.lag >= 0, "refresh.lag", ">= 0 steps", self.lag)
        _require(
            self.every == 0 or self.lag <= self.every,
            "refresh.lag",
            f"<= refresh.every = {self.every}, so that only one table is pending at a time",
            self.lag,
        )
        _require(self.timeout_seconds > 0, "refresh.timeout_seconds", "> 0", self.timeout_seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The optimiser and its learning rate."""

    name: Literal["sgd", "adamw"] = "sgd"
    """sgd (Nesterov momentum) or adamw."""

    learning_rate: float = 0.1
    """Peak learning rate."""

    momentum: float = 0.9
    """Momentum of sgd; ignored by adamw."""

    weight_decay: float = 5e-4
    """Weight decay of weight matrices; biases and norms are not decayed."""

    warmup_steps: int = 20
    """Steps over which the learning rate grows linearly."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: cosine to zero at the last step, or constant."""

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, "optim.learning_rate", "> 0", self.learning_rate)
        _require(0 <= self.momentum < 1, "optim.momentum", "in [0, 1)", self.momentum)
        _require(self.weight_decay >= 0, "optim.weight_decay", ">= 0", self.weight_decay)
        _require(self.warmup_steps >= 0, "optim.warmup_steps", ">= 0", self.warmup_steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The length of the training run, and how DeepSpeed runs it."""

    steps: int = 600
    """Optimiser steps. Images seen = steps x micro_batches x micro_batch_size."""

    classifier_share: float = 0.0
    """Last share of the steps in which all is frozen but a second linear classifier, trained on
    class-balanced batches: cRT (Kang et al., ICLR 2020), read-out head_crt. 0 = none."""

    log_every: int = field(default=10, metadata=MAY_CHANGE)
    """Steps between two rows of metrics."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the network. The loss is always computed in fp32."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO: 1 shards optimiser state over ranks, 2 gradients too, 3 weights too."""

    gradient_clipping: float = 0.0
    """Largest norm of the gradient. 0 = no clipping."""

    communication_timeout_seconds: float = field(default=120.0, metadata=MAY_CHANGE)
    """A rank silent for so long ends the others; a collective may take a quarter longer."""

    deepspeed_extra: dict[str, Any] = field(default_factory=dict)
    """Further keys for DeepSpeed's own JSON. Keys that this file already decides are refused."""

    def __post_init__(self) -> None:
        check_deepspeed_extra(self.deepspeed_extra)
        _require(self.steps >= 1, "train.steps", ">= 1", self.steps)
        _require(
            0 <= self.classifier_share < 1,
            "train.classifier_share",
            "in [0, 1)",
            self.classifier_share,
        )
        _require(self.log_every >= 1, "train.log_every", ">= 1", self.log_every)
        _require(
            self.gradient_clipping >= 0, "train.gradient_clipping", ">= 0", self.gradient_clipping
        )
        _require(
            self.communication_timeout_seconds > 0,
            "train.communication_timeout_seconds",
            "> 0",
            self.communication_timeout_seconds,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """When the whole state is saved, to resume after a stop."""

    every: int = 500
    """Steps between two checkpoints; the last step has one anyway. 0 = only at the end."""

    keep: int = 2
    """Newest checkpoints that are kept."""

    def __post_init__(self) -> None:
        _require(self.every >= 0, "checkpoint.every", ">= 0 steps", self.every)
        _require(self.keep >= 1, "checkpoint.keep", ">= 1", self.keep)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """How embeddings become classes, and on which images and when that is measured."""

    split: Literal["test", "validation"] = field(default="test", metadata=MAY_CHANGE)
    """Images that are classified. Settings are chosen on validation (`clmle import
    --validation-fraction`), so that the test split is read once."""

    every: int = field(default=0, metadata=MAY_CHANGE)
    """Steps between two evaluations during training (on the active table). 0 = only at the end."""

    batch_size: int = 256
    """Images per forward pass of embedding and evaluation. Fixes the batches, so any number of
    ranks or workers gives the same embeddings. An evaluating rank or worker needs some 20 bytes for
    each class of each of them: 0.5 GiB at 100,000 classes."""

    num_neighbours: int = 50
    """k of the k-nearest-cluster rules (capped at the number of clusters); for knc_balanced, of
    each class."""

    soft_scale: float = 16.0
    """Scale of the soft votes: kNC's, a log-mean-exp of scaled cosines, and those of the nearest
    training images, exp of a scaled cosine each."""

    knn: int = 0
    """Above 0, the read-out knn is the vote of that many nearest training images. Needs the run's
    embeddings of the evaluated step, which are there for the newest table."""

    knn_balanced: int = 0
    """Above 0, the read-out knn_balanced is the vote of that many nearest training images, divided
    by the number of training images of the class; 200 is a good value. Needs what knn needs."""

    tau: float = 0.0
    """Above 0, the read-out head_tau is the linear head with each class's weights divided by their
    norm to this power (Kang et al., ICLR 2020). To be chosen on held-out images."""

    head_adjustment: float = 0.0
    """Above 0, the read-out head_adjusted is the linear head's logits less this times the log of
    the class's share of the training images (post-hoc logit adjustment, Menon et al., ICLR 2021;
    theirs: 1)."""

    def __post_init__(self) -> None:
        _require(self.every >= 0, "evaluation.every", ">= 0 steps", self.every)
        _require(self.batch_size >= 1, "evaluation.batch_size", ">= 1", self.batch_size)
        _require(self.num_neighbours >= 1, "evaluation.num_neighbours", ">= 1", self.num_neighbours)
        _require(self.soft_scale > 0, "evaluation.soft_scale", "> 0", self.soft_scale)
        _require(self.knn >= 0, "evaluation.knn", ">= 0", self.knn)
        _require(self.knn_balanced >= 0, "evaluation.knn_balanced", ">= 0", self.knn_balanced)
        _require(self.tau >= 0, "evaluation.tau", ">= 0", self.tau)
        _require(
            self.head_adjustment >= 0, "evaluation.head_adjustment", ">= 0", self.head_adjustment
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchConfig:
    """What `clmle run` starts on this machine."""

    num_ranks: int = 2
    """DeepSpeed ranks (processes). The batches are the same for any number."""

    threads_per_rank: int = 0
    """CPU threads per rank, of `clmle run`. 0 = OMP_NUM_THREADS of the environment or, without it,
    an equal share of the cores that affinity and a container leave."""

    master_port: int = 0
    """TCP port on which the ranks meet. 0 = a free one."""

    ray_cpus: int = 0
    """CPUs of the local Ray cluster, so the number of clustering workers. 0 = all cores that
    affinity and a container leave."""

    ray_dashboard: bool = False
    """Start Ray's dashboard (on the loopback interface)."""

    embed_gpus: float = 0.0
    """Share of a GPU that an embedding or evaluation task asks Ray for; 0 = CPU workers. The ranks
    use the same GPUs, so memory must be left there. A cluster without GPUs uses its CPUs, and
    says so."""

    start_timeout_seconds: float = 300.0
    """How long `clmle run` waits for the first sign of life of a part."""

    def __post_init__(self) -> None:
        _require(self.num_ranks >= 1, "launch.num_ranks", ">= 1", self.num_ranks)
        _require(
            self.threads_per_rank >= 0, "launch.threads_per_rank", ">= 0", self.threads_per_rank
        )
        _require(0 <= self.master_port < 65536, "launch.master_port", "a port", self.master_port)
        _require(self.ray_cpus >= 0, "launch.ray_cpus", ">= 0", self.ray_cpus)
        _require(0 <= self.embed_gpus <= 1, "launch.embed_gpus", "in [0, 1]", self.embed_gpus)
        _require(
            self.start_timeout_seconds > 0,
            "launch.start_timeout_seconds",
            "> 0",
            self.start_timeout_seconds,
        )
