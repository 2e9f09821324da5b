"""Image shards that a tiny network can learn in seconds: noisy patterns, two splits, two labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_shards.images.transforms import encode_png
from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import Manifest, SplitInfo
from data_shards.shards.sample import Sample
from data_shards.shards.writer import write_shard

SHAPE, PARITY = "shape", "parity"
TRAIN_COUNTS = (20, 12, 8, 5)
"""Training images of each shape: a long tail."""
TEST_COUNTS = (7, 6, 5, 3)
SIZE = 8


def write_tiny_data(
    folder: Path,
    *,
    train: Sequence[int] = TRAIN_COUNTS,
    test: Sequence[int] = TEST_COUNTS,
    per_shard: int = 13,
) -> Manifest:
    """Write shards of grey 8x8 images; label "shape" is the pattern, "parity" is shape modulo 2.

    Args:
        folder: made when missing.
        train: training images of each shape.
        test: test images of each shape; empty for no test split.
        per_shard: images a shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = {"train": _write_split(folder, "train", train, 0, per_shard)}
    if test:
        splits["test"] = _write_split(folder, "test", test, sum(train), per_shard)
    return Manifest(
        folder=folder,
        source="patterns",
        fingerprint=f"patterns {train} {test}",
        settings={},
        label_columns=(SHAPE, PARITY),
        label_names={
            SHAPE: tuple(f"shape {c}" for c in range(len(train))),
            PARITY: ("even", "odd"),
        },
        splits=splits,
    ).write()


def spoil_image(manifest: Manifest, split: str, sample_id: int) -> None:
    """Overwrite an image's bytes in its tar, as a bad disk would; no size changes."""
    image = SampleIndex(manifest, split).read(sample_id)
    for shard in manifest.split(split).shards:
        tar = manifest.folder / shard.tar_name
        tar.write_bytes(tar.read_bytes().replace(image, bytes(len(image))))


def _write_split(
    folder: Path, name: str, counts: Sequence[int], first_id: int, per_shard: int
) -> SplitInfo:
    labels = np.repeat(np.arange(len(counts)), counts)
    samples = [_sample(first_id + n, int(label)) for n, label in enumerate(labels)]
    shards = [
        write_shard(
            folder,
            f"{name}-{number:06d}",
            iter(samples[start : start + per_shard]),
            [SHAPE, PARITY],
        )
        for number, start in enumerate(range(0, len(samples), per_shard))
    ]
    histograms = {
        SHAPE: tuple(np.bincount(labels, minlength=len(counts)).tolist()),
        PARITY: tuple(np.bincount(labels % 2, minlength=2).tolist()),
    }
    return SplitInfo(len(samples), histograms, tuple(shards))


def _sample(sample_id: int, shape: int) -> Sample:
    pattern = np.random.default_rng(shape).integers(0, 110, size=(SIZE, SIZE))
    noise = np.random.default_rng((shape, sample_id)).integers(0, 146, size=(SIZE, SIZE))
    image = encode_png((pattern + noise).astype(np.uint8))
    labels = {SHAPE: shape, PARITY: shape % 2}
    return Sample(sample_id, image, "png", labels, f"patterns/{sample_id}")
