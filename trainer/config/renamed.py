"""Settings that had another name in an earlier release, for the error that names the new one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_shards.errors import ConfigError

_SHAPE = (
    "sampler.micro_batch_size is now the images of a micro-batch, for every sampling (it was "
    "clusters x samples_per_cluster), and sampler.images_per_cluster how many of a cluster"
)

RENAMED_SETTINGS = {
    "sampler.neighbourhoods": "it is sampler.micro_batches now",
    "sampler.clusters": _SHAPE,
    "sampler.samples_per_cluster": f"{_SHAPE}; sampler.images_per_class is for class_groups",
    "cluster.samples_per_cluster": "it is cluster.target_size now",
    "cluster.max_clusters_per_class": "it is cluster.max_per_class now",
    "cluster.neighbours": "it is cluster.listed_neighbours now",
    "cluster.siblings": "it is cluster.listed_siblings now",
    "cluster.task_timeout_seconds": "it is cluster.call_timeout_seconds now",
    "loss.spread": "it is loss.isda_strength now",
    "loss.clmle_from": "it is loss.warmup_share now",
    "loss.focal_gamma": "it is loss.gamma now, of loss.name focal",
}
"""Old name -> what to write instead."""


def refuse_renamed(raw: Mapping[str, Any]) -> None:
    """Refuse names of an earlier release, all of them at once.

    Args:
        raw: section -> setting -> value.

    Raises:
        ConfigError: there are some; says what to write instead of each.
    """
    found = [
        name
        for section, values in raw.items()
        if isinstance(values, Mapping)
        for name in (f"{section}.{key}" for key in values)
        if name in RENAMED_SETTINGS
    ]
    if len(found) == 1:
        raise ConfigError(f"unknown setting {found[0]}; {RENAMED_SETTINGS[found[0]]}")
    if found:
        lines = [f"  {name}: {RENAMED_SETTINGS[name]}" for name in found]
        raise ConfigError(
            "\n".join(["settings of an earlier release, with other names now:", *lines])
        )
