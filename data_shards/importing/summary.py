"""What `clmle import` says at its end."""

from __future__ import annotations

import numpy as np

from data_shards.errors import named
from data_shards.importing.long_tail import imbalance_ratio
from data_shards.importing.plan import ImportPlan
from data_shards.shards.manifest import Manifest


def describe_import(manifest: Manifest, plan: ImportPlan) -> str:
    """Return the summary of an import: counts, imbalance, what is missing, the folder."""
    column = manifest.label_columns[0]
    head = f"{manifest.folder}: {plan.source}, {manifest.num_classes(column):,} classes"
    if len(manifest.label_columns) > 1:
        head += f" of {column} (also labelled: {named(manifest.label_columns[1:])})"
    lines = [_describe_split(manifest, split) for split in manifest.splits]
    lines += _describe_classes(manifest, plan)
    lines += plan.notes
    copies = set(plan.dropped_copies)
    if skipped := [name for name in manifest.skipped if name not in copies]:
        lines.append(f"skipped {len(skipped):,} image(s) that cannot be used: {named(skipped)}")
    return "\n  ".join([head, *lines]) + "\n"


def _describe_split(manifest: Manifest, name: str) -> str:
    split = manifest.splits[name]
    counts = manifest.class_counts(name, manifest.label_columns[0])
    return (
        f"{name}: {split.num_samples:,} images, {len(split.shards):,} shard(s), "
        f"{counts.min():,} to {counts.max():,} a class, "
        f"imbalance ratio {imbalance_ratio(counts):.1f}"
    )


def _describe_classes(manifest: Manifest, plan: ImportPlan) -> list[str]:
    """Lines on classes that were left out, or have fewer images than they should."""
    column = manifest.label_columns[0]
    names, got = manifest.label_names[column], manifest.class_counts("train", column)
    lines = []
    if small := plan.dropped_classes:
        lines.append(
            f"left out {len(small):,} class(es) with fewer than {plan.settings['min_images']:,} "
            f"images: {named(small)}"
        )
    if unusable := plan.unusable_classes:
        lines.append(
            f"left out {len(unusable):,} class(es) without a training image that can be used: "
            f"{named(unusable)}"
        )
    fewer = [
        f"{name!r} {have:,} of {wanted:,}"
        for name, have, wanted in zip(names, got, plan.wanted_counts, strict=True)
        if have < wanted
    ]
    if fewer and plan.settings["long_tail_ratio"] > 1:
        lines.append(f"fewer images than the long tail asked for: {named(fewer)}")
    if "test" in manifest.splits:
        untested = [names[n] for n in np.flatnonzero(manifest.class_counts("test", column) == 0)]
        if untested:
            lines.append(
                f"{len(untested):,} class(es) have no test image, so nothing is measured of them: "
                f"{named(untested)}"
            )
    return lines
