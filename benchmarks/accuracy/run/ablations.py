"""CLMLE with one choice changed, all else kept: what each choice is worth.

A variant has no search of its own: learning rate and read-out are those of CLMLE, so that a
difference is the choice's alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from trainer.config.readout_names import KNC_SOFT
from trainer.config.run_config import RunConfig
from trainer.losses.spec import LabelSampling, Sampling

# Margins are full where the recipe's are, which count from the end of its warm-up.
_NO_WARMUP = {
    "loss.warmup_share": 0.0,
    "loss.margin_anneal": 0.8,
    "sampler.warmup_sampling": "instance",
}


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One choice of CLMLE, changed."""

    choice: str
    """What is changed, in words."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Dotted setting -> its value instead."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Dotted setting -> what CLMLE's value is multiplied by."""
    readout: str | None = None
    """Used where CLMLE's read-out needs what the change takes away; None = it never does."""

    def changes(self, config: RunConfig) -> dict[str, Any]:
        """Dotted settings that turn CLMLE into the variant.

        Args:
            config: of CLMLE, complete: a factor is applied to the value that holds in the end.
        """
        changed = dict(self.settings)
        for name, factor in self.factors.items():
            section, setting = name.split(".")
            value = getattr(getattr(config, section), setting)
            changed[name] = type(value)(factor * value)
        return changed


def _drawn(sampling: Sampling, *, warmup: LabelSampling, prior: float) -> dict[str, Any]:
    return {
        "sampler.sampling": sampling,
        "sampler.warmup_sampling": warmup,
        "loss.cluster_prior": prior,
        "loss.logit_adjustment": prior,
    }


def _sampled(sampling: LabelSampling, *, prior: float) -> Ablation:
    return Ablation(
        choice=f"batches drawn by {sampling}",
        settings=_drawn(sampling, warmup=sampling, prior=prior),
    )


def _neighbourhoods(
    choice: str,
    settings: Mapping[str, Any] = MappingProxyType({}),
    factors: Mapping[str, float] = MappingProxyType({}),
) -> Ablation:
    """Batches of neighbourhoods; classes come about equally often, so nothing is adjusted."""
    return Ablation(
        choice=f"neighbourhoods{choice}",
        settings=_drawn("cluster", warmup="class_balanced", prior=0.0) | dict(settings),
        factors=factors,
    )


ABLATIONS: Mapping[str, Ablation] = MappingProxyType(
    {
        "clmle_one_cluster": Ablation(
            choice="one cluster a class", settings={"cluster.max_per_class": 1}
        ),
        "clmle_no_limit": Ablation(
            choice="no limit of the clusters of a class",
            settings={"cluster.max_per_class": 0},
        ),
        "clmle_half_clusters": Ablation(
            choice="clusters half as large", factors={"cluster.target_size": 0.5}
        ),
        "clmle_no_within": Ablation(
            choice="no within-class term", settings={"loss.weight_within": 0.0}
        ),
        "clmle_equal_within": Ablation(
            choice="within-class term as heavy as the other", settings={"loss.weight_within": 1.0}
        ),
        "clmle_no_warmup": Ablation(choice="no warm-up", settings=_NO_WARMUP),
        "clmle_no_margins": Ablation(
            choice="no margins",
            settings={"loss.margin_between": 0.0, "loss.margin_within": 0.0},
        ),
        "clmle_no_anneal": Ablation(
            choice="margins whole from the first table on", settings={"loss.margin_anneal": 0.0}
        ),
        "clmle_centroids": Ablation(
            choice="the table's centroids as they are", settings={"loss.mean_momentum": 1.0}
        ),
        "clmle_no_means": Ablation(
            choice="no running means, nor for the spread's covariance",
            settings={"loss.mean_momentum": 0.0},
        ),
        # A warm-up minimises the softmax term, so that it goes too: to be read beside no warm-up.
        "clmle_no_softmax": Ablation(
            choice="no softmax term, nor warm-up",
            settings={
                "loss.weight_softmax": 0.0,
                "loss.logit_adjustment": 0.0,
                "loss.class_weight": "none",
                "loss.isda_strength": 0.0,
                **_NO_WARMUP,
            },
            readout=KNC_SOFT,
        ),
        "clmle_no_spread": Ablation(choice="no spread", settings={"loss.isda_strength": 0.0}),
        "clmle_triple_spread": Ablation(
            choice="spread tripled", factors={"loss.isda_strength": 3.0}
        ),
        "clmle_half_scale": Ablation(choice="scale halved", factors={"loss.scale": 0.5}),
        "clmle_double_scale": Ablation(choice="scale doubled", factors={"loss.scale": 2.0}),
        "clmle_wide_margins": Ablation(
            choice="margins half as wide again",
            factors={"loss.margin_between": 1.5, "loss.margin_within": 1.5},
        ),
        "clmle_rare_margins": Ablation(
            choice="wider margins for rare classes", settings={"loss.margin_rare_exponent": 0.1}
        ),
        "clmle_one_table": Ablation(choice="the first table only", settings={"refresh.every": 0}),
        "clmle_more_tables": Ablation(
            choice="tables twice as often", factors={"refresh.every": 0.5}
        ),
        "clmle_instance": _sampled("instance", prior=1.0),
        "clmle_class_balanced": _sampled("class_balanced", prior=0.0),
        "clmle_no_prior": Ablation(
            choice="no priors",
            settings={"loss.cluster_prior": 0.0, "loss.logit_adjustment": 0.0},
        ),
        # As the batches' own shares have it, where they are drawn by square root.
        "clmle_half_prior": Ablation(
            choice="priors halved",
            factors={"loss.cluster_prior": 0.5, "loss.logit_adjustment": 0.5},
        ),
        "clmle_neighbourhoods": _neighbourhoods(""),
        "clmle_neighbourhoods_batch": _neighbourhoods(
            ", rivals of the batch only",
            {"loss.candidates": "batch"},
        ),
        "clmle_neighbourhoods_by_class": _neighbourhoods(
            ", a seed of each class in turn", {"sampler.seed_by": "class"}
        ),
        "clmle_neighbourhoods_no_siblings": _neighbourhoods(
            " without siblings", {"sampler.siblings": 0}
        ),
        "clmle_neighbourhoods_two_seeds": _neighbourhoods(
            ", two of half the clusters a step",
            {"sampler.micro_batches": 2},
            {"sampler.micro_batch_size": 0.5},
        ),
        "clmle_neighbourhoods_wide": _neighbourhoods(
            ", half the clusters, twice the images of each",
            factors={"sampler.images_per_cluster": 2.0},
        ),
    }
)
