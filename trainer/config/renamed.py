"""Settings that had another name in an earlier release, for the error that names the new one."""

from __future__ import annotations

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
