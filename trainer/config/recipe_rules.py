"""The rules of `recipe: long_tail` and their constants; docs/methods.md has them in a table.

Legend: N training images, C classes that have some, N / C their mean size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from trainer.config.recipe_choices import Choices, Histogram
from trainer.config.sampler_section import IMAGES_TOGETHER
from trainer.losses.registry import LOSSES
from trainer.losses.schedule import step_at
from trainer.losses.spec import LabelSampling

DERIVED_SETTINGS = (
    "cluster.target_size",
    "cluster.max_per_class",
    "loss.candidates",
    "sampler.sampling",
    "sampler.images_per_cluster",
    "sampler.images_per_class",
    "sampler.micro_batch_size",
    "train.steps",
    "loss.cluster_prior",
    "loss.logit_adjustment",
    "loss.warmup_share",
    "sampler.warmup_sampling",
    "loss.scale",
    "loss.margin_between",
    "loss.margin_within",
    "loss.mean_momentum",
    "loss.isda_strength",
    "refresh.every",
    "refresh.lag",
    "refresh.timeout_seconds",
    "checkpoint.every",
    "evaluation.every",
    "model.embedding_dim",
    "optim.weight_decay",
)
"""All that a recipe may decide, in the order in which it does."""

# At most this many classes count as few: they overlap more, and a batch has images of most of them.
_FEW_CLASSES = 20


@dataclass(frozen=True, kw_only=True)
class _Profile:
    """What goes with few, or with many classes.

    Points of balanced accuracy are those of the ablations in docs/results.md: ten classes of
    Fashion-MNIST, 100 : 1, five seeds. Below 0.3 they are chance. What has none was not measured.
    """

    scale: float
    """The more rivals, the sharper the loss must be for the nearest to count most. Doubled: -0.2;
    halved: +0.2."""
    mean_momentum: float
    """Few clusters get many images a step, so their means may follow them quickly. 0: 0.0."""
    groups: int
    """Clusters of a micro-batch, or classes where images of a class are drawn together. Times
    `images_per_group`: the images of a micro-batch, for every sampling."""
    images_per_group: int
    max_per_class: int
    """Clusters of a class. 0 = no limit. Few classes overlap, and many clusters of each would model
    the overlap. 1: +0.2 (three of the ten classes have more)."""
    isda_strength: float
    """lambda of the implicit augmentation. 0: -0.2, on LFW -3.7; tripled: +0.3."""


_FEW = _Profile(
    scale=8.0,
    mean_momentum=0.5,
    groups=20,
    images_per_group=5,
    max_per_class=3,
    isda_strength=0.5,
)
_MANY = _Profile(
    scale=24.0,
    mean_momentum=0.9,
    groups=40,
    images_per_group=3,
    max_per_class=0,
    isda_strength=1.0,
)

# Classes of so many images on average are large enough for clusters of the size that the loss is
# meant for; smaller ones get small clusters, or most would have a single one.
_LARGE_CLASS = 100
_LARGE_CLUSTERS = 200
_SMALL_CLUSTERS = 20

# Margins between and within classes. Few images of a class are memorised unless more is asked for,
# but large classes overlap, and wide margins between them cannot be kept: 44 classes of 170 faces
# on average lose 3 points by them. None: -0.2, on LFW -1.4; half as wide again: +0.1.
_MARGINS = (0.2, 0.05)
_MARGINS_OF_MANY_SMALL_CLASSES = (0.8, 0.2)

# Of the warm-up too: rare classes come more often than by instance, and are not memorised as when
# classes come equally often. By instance: -0.2; class-balanced: -1.7; by neighbourhoods: -2.2.
_SAMPLING: LabelSampling = "square_root"

# Samplings that show large classes more often; priors in the loss make up for it. Without: -1.7, or
# -0.1 where the head is adjusted afterwards; halved, which is what square-root batches call for in
# theory: -0.3.
_UNBALANCED = ("instance", "square_root")

# Share of the training run with the softmax term alone, so that the first table is of features.
# Without: +0.2; a prototype on faces whose batches were neighbourhoods gained by it.
_WARM_UP = 0.3

# Length of the training run, in passes over the images, and its bounds in steps.
_EPOCHS = 20
_LEAST_STEPS = 600
_MOST_STEPS = 100_000

# Share of the steps that have tables after which the next table is asked for (the first one only:
# 0.0); and share of all steps between two checkpoints, and two evaluations. Each is at least so
# many steps apart.
_REFRESH_SHARE = 0.1
_CHECKPOINT_SHARE = 0.1
_EVALUATION_SHARE = 0.2
_LEAST_APART = 50

# Training continues meanwhile: embedding an image costs a third of training on it, clustering
# less.
_TABLE_EPOCHS = 0.5

# How long ranks wait for a table: the default for so many images, and for each further one its time
# on a slow machine. One CPU core embeds 1 image of 112 x 112 pixels a second with iresnet100, a
# GPU hundreds; clustering takes less. It is the last resort: `clmle run` notices a service that
# hangs much earlier.
_IMAGES_IN_TIME = 20_000
_SECONDS_PER_IMAGE = 0.1

# (classes at most, embedding dimensions): more classes need more room on the sphere.
_EMBEDDING_DIMS = ((20, 32), (1_000, 64), (10_000, 128), (100_000, 256))
_LARGEST_EMBEDDING_DIM = 512

# With the trainer's 0.0005 a small network memorises a few thousand images: on faces of LFW,
# softmax loses 4 points by it and CLMLE 2. Nothing was measured on more images than these.
_FEW_IMAGES = 100_000
_DECAY_OF_FEW_IMAGES = 0.002


def apply_rules(choices: Choices, data: Histogram) -> None:
    """Decide all that is left open, in the order of `DERIVED_SETTINGS`."""
    is_clmle = choices.value("loss.name") == "clmle"
    _derive_clusters(choices, data)
    if is_clmle:
        _derive_sampling(choices)
    _derive_batch(choices, data)
    _derive_steps(choices, data)
    if is_clmle:
        _derive_priors(choices)
        _derive_loss(choices, data)
    _derive_periods(choices, data)
    _derive_model(choices, data)
    _derive_optimiser(choices, data)


def _profile(data: Histogram) -> _Profile:
    return _FEW if data.num_classes <= _FEW_CLASSES else _MANY


def _has_many_small(data: Histogram) -> bool:
    return data.num_classes > _FEW_CLASSES and data.mean_class < _LARGE_CLASS


def _derive_clusters(choices: Choices, data: Histogram) -> None:
    size = _LARGE_CLUSTERS if data.mean_class >= _LARGE_CLASS else _SMALL_CLUSTERS
    choices.put(
        "cluster.target_size", size, f"a class has {data.mean_class:,.0f} images on average"
    )
    choices.put("cluster.max_per_class", _profile(data).max_per_class, data.classes)


def _derive_sampling(choices: Choices) -> None:
    choices.put("loss.candidates", "table", "a batch drawn by labels holds few rivals")
    if choices.value("loss.candidates") == "table":  # else auto, batches of clusters
        choices.put("sampler.sampling", _SAMPLING, "between the classes' shares and equal ones")


def _derive_batch(choices: Choices, data: Histogram) -> None:
    profile = _profile(data)
    together = profile.images_per_group
    size = choices.given.get("sampler.micro_batch_size")
    if size is not None:  # which they must divide
        together = max(n for n in range(1, together + 1) if size % n == 0)
    # Both, whatever the run's own sampling: its baselines may draw by the other.
    for setting in IMAGES_TOGETHER.values():
        choices.put(f"sampler.{setting}", together, data.classes)
    if choices.sampling in IMAGES_TOGETHER:
        together = choices.value(f"sampler.{IMAGES_TOGETHER[choices.sampling]}")
    choices.put("sampler.micro_batch_size", profile.groups * together, data.classes)


def _derive_priors(choices: Choices) -> None:
    sampling = choices.value("sampler.sampling")
    prior, reason = 0.0, f"sampling {sampling} needs none"
    if sampling in _UNBALANCED:
        prior, reason = 1.0, f"sampling {sampling} shows large classes more often"
    choices.put("loss.cluster_prior", prior, reason)
    if choices.value("loss.weight_softmax") == 0:
        return  # nothing to adjust or to warm up with
    choices.put("loss.logit_adjustment", prior, reason)
    choices.put(
        "loss.warmup_share",
        min(_WARM_UP, 1 - choices.value("loss.margin_anneal")),
        "so that the first table is made from trained features",
    )
    if choices.value("loss.warmup_share"):
        by_label = sampling in get_args(LabelSampling)
        choices.put(
            "sampler.warmup_sampling",
            sampling if by_label else "class_balanced",
            "as afterwards" if by_label else "neighbourhoods show all classes about as often, too",
        )


def _derive_loss(choices: Choices, data: Histogram) -> None:
    profile = _profile(data)
    choices.put("loss.scale", profile.scale, data.classes)
    between, within = _MARGINS_OF_MANY_SMALL_CLASSES if _has_many_small(data) else _MARGINS
    if "loss.margin_within" in choices.given:  # the margin between classes is never smaller
        between = max(between, choices.value("loss.margin_within"))
    sizes = f"{data.classes} of {data.mean_class:,.0f} images on average"
    choices.put("loss.margin_between", between, sizes)
    within = min(within, choices.value("loss.margin_between"))
    choices.put("loss.margin_within", within, sizes)
    choices.put("loss.mean_momentum", profile.mean_momentum, data.classes)
    if choices.value("loss.weight_softmax") != 0:
        choices.put("loss.isda_strength", profile.isda_strength, data.classes)


def _images_per_step(choices: Choices) -> int:
    shape = ("micro_batches", "micro_batch_size")
    return max(1, math.prod(int(choices.value(f"sampler.{name}")) for name in shape))


def _derive_steps(choices: Choices, data: Histogram) -> None:
    steps = math.ceil(_EPOCHS * data.num_images / _images_per_step(choices))
    choices.put(
        "train.steps",
        min(max(steps, _LEAST_STEPS), _MOST_STEPS),
        f"{_EPOCHS} epochs of {data.num_images:,} images are {steps:,} steps; "
        f"at least {_LEAST_STEPS:,}, at most {_MOST_STEPS:,}",
    )


def _derive_periods(choices: Choices, data: Histogram) -> None:
    steps = choices.value("train.steps")
    loss, share = choices.loss, choices.value("train.classifier_share")
    uses_tables = LOSSES[loss.name].needs_table or choices.value("sampler.sampling") == "cluster"
    if uses_tables:
        end = steps - step_at(share, steps)
        with_tables = end - step_at(loss.warmup_share, end)
        _derive_refresh(choices, data, with_tables)
    _derive_timeout(choices, data)
    choices.put("checkpoint.every", _apart(_CHECKPOINT_SHARE, steps), f"{steps:,} steps")
    if uses_tables or loss.has_classifier or share:  # else nothing to read out before the end
        choices.put("evaluation.every", _apart(_EVALUATION_SHARE, steps), f"{steps:,} steps")


def _derive_refresh(choices: Choices, data: Histogram, steps: int) -> None:
    least = choices.value("refresh.lag")
    every = max(_apart(_REFRESH_SHARE, steps), least)
    choices.put("refresh.every", every, f"{steps:,} steps use tables")
    busy = math.ceil(_TABLE_EPOCHS * data.num_images / _images_per_step(choices))
    lag = min(max(busy, least), choices.value("refresh.every") or busy)
    plural = "" if busy == 1 else "s"
    because = f"a table takes about {busy:,} step{plural}; at most refresh.every"
    choices.put("refresh.lag", lag, because)


def _derive_timeout(choices: Choices, data: Histogram) -> None:
    further = data.num_images - _IMAGES_IN_TIME
    if further > 0:
        default = choices.value("refresh.timeout_seconds")
        seconds = math.ceil(default + _SECONDS_PER_IMAGE * further)
        reason = f"{data.num_images:,} images may take long to embed; the last table, too"
        choices.put("refresh.timeout_seconds", seconds, reason)


def _apart(share: float, steps: int) -> int:
    return max(_LEAST_APART, round(share * steps))


def _derive_model(choices: Choices, data: Histogram) -> None:
    fitting = (dim for most, dim in _EMBEDDING_DIMS if data.num_classes <= most)
    choices.put("model.embedding_dim", next(fitting, _LARGEST_EMBEDDING_DIM), data.classes)


def _derive_optimiser(choices: Choices, data: Histogram) -> None:
    if data.num_images < _FEW_IMAGES:
        reason = f"{data.num_images:,} images would be memorised with less"
        choices.put("optim.weight_decay", _DECAY_OF_FEW_IMAGES, reason)
