"""The `sampler` section of a run's configuration: which images make a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data_shards.errors import require
from trainer.losses.spec import LabelSampling, Sampling

IMAGES_TOGETHER = {"cluster": "images_per_cluster", "class_groups": "images_per_class"}
"""Sampling -> the setting that says how many images of a cluster, or class, it draws together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """Which images make a step: `micro_batches` of `micro_batch_size` images, over all ranks."""

    sampling: Literal["auto", Sampling] = "auto"
    """cluster = neighbourhoods of the cluster table; instance = every image once an epoch;
    class_balanced = every class as often; square_root = a class in proportion to the root of its
    size; under = of each class as many images as the rarest has; progressive = from instance to
    class_balanced over the training run; class_groups = class_balanced, images_per_class images of
    a class at a time. auto = what suits the loss (docs/methods.md)."""

    warmup_sampling: LabelSampling = "instance"
    """How images are drawn during `loss.warmup_share`, while only the softmax term is minimised
    (not the learning rate's `optim.warmup_steps`)."""

    micro_batches: int = 2
    """Micro-batches a step. Must be a multiple of the number of ranks; each rank accumulates
    gradients over its share."""

    micro_batch_size: int = 100
    """Images of a micro-batch, for every sampling. BatchNorm and the loss see it whole."""

    images_per_cluster: int = 5
    """With sampling cluster, images drawn of each cluster (D in the papers); a smaller cluster
    repeats its images. micro_batch_size / images_per_cluster clusters make a neighbourhood (M in
    the papers): a seed, its siblings, the nearest of other classes, and where a table lists too few
    of these (`cluster.listed_neighbours`), any others."""

    siblings: int = 3
    """With sampling cluster, at most this many clusters of the seed's class beside it."""

    max_clusters_per_class: int = 0
    """With sampling cluster, at most this many clusters of one class in a neighbourhood. 0 = as
    many as are near."""

    seed_by: Literal["cluster", "class"] = "cluster"
    """With sampling cluster, seeds go through all clusters, or through all classes (and their
    clusters in turn)."""

    images_per_class: int = 5
    """With sampling class_groups, images drawn of a class at a time (K of P x K batches)."""

    def __post_init__(self) -> None:
        for name in ("micro_batches", "images_per_cluster", "images_per_class"):
            require(getattr(self, name) >= 1, f"sampler.{name}", ">= 1", getattr(self, name))
        size = self.micro_batch_size
        require(size >= 2, "sampler.micro_batch_size", ">= 2 (a loss needs two images)", size)
        for name in ("siblings", "max_clusters_per_class"):
            require(getattr(self, name) >= 0, f"sampler.{name}", ">= 0", getattr(self, name))

    @property
    def clusters(self) -> int:
        """Clusters of a neighbourhood, with sampling cluster."""
        return self.micro_batch_size // self.images_per_cluster

    def check_shape(self, sampling: Sampling) -> None:
        """Refuse micro-batches that cannot be drawn.

        Raises:
            ConfigError: their images do not divide among clusters or classes, where the sampling
                draws several of one together, or there are too few of these.
        """
        name = IMAGES_TOGETHER.get(sampling)
        if name is None:
            return
        size, each = self.micro_batch_size, getattr(self, name)
        require(
            size % each == 0,
            "sampler.micro_batch_size",
            f"a multiple of sampler.{name} = {each} with sampling {sampling}",
            size,
        )
        groups, kind = size // each, "clusters" if sampling == "cluster" else "classes"
        require(
            groups >= 2,
            f"sampler.micro_batch_size / sampler.{name}",
            f">= 2 {kind} (a loss needs two)",
            groups,
        )
        require(
            sampling != "cluster" or self.siblings < groups,
            "sampler.siblings",
            f"in [0, {groups}), the clusters of a micro-batch",
            self.siblings,
        )
