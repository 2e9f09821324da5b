"""Small folders of image shards and image files for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_shards.images.transforms import encode_png
from data_shards.shards.manifest import Manifest, SplitInfo
from data_shards.shards.sample import Sample
from data_shards.shards.writer import write_shard

COLUMN = "class"


def png(seed: int, size: int = 8) -> bytes:
    """A grey PNG of noise; another seed, another image."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(size, size), dtype=np.uint8)
    return encode_png(pixels)


def sample(sample_id: int, label: int) -> Sample:
    return Sample(sample_id, png(sample_id), "png", {COLUMN: label}, f"made/{sample_id}")


def write_split(
    folder: Path, name: str, ids: Sequence[int], labels: Sequence[int], *, per_shard: int
) -> SplitInfo:
    """Write the shards of one split, without a manifest."""
    shards = []
    for number, start in enumerate(range(0, len(ids), per_shard)):
        part = slice(start, start + per_shard)
        samples = map(sample, ids[part], labels[part])
        shards.append(write_shard(folder, f"{name}-{number:06d}", samples, [COLUMN]))
    histogram = tuple(np.bincount(labels, minlength=3).tolist())
    return SplitInfo(len(ids), {COLUMN: histogram}, tuple(shards))


def write_image_shards(
    folder: Path, ids: Sequence[int], labels: Sequence[int], *, per_shard: int = 4
) -> Manifest:
    """Write a folder with a "train" split of three classes, "a", "b" and "c"."""
    folder.mkdir(parents=True, exist_ok=True)
    return Manifest(
        folder=folder,
        source="made",
        fingerprint="made for a test",
        settings={},
        label_columns=(COLUMN,),
        label_names={COLUMN: ("a", "b", "c")},
        splits={"train": write_split(folder, "train", ids, labels, per_shard=per_shard)},
    ).write()


def write_image_folder(root: Path, classes: dict[str, int]) -> Path:
    """Write ROOT/CLASS/000.png, ...: class name -> number of images."""
    seed = 0
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number:03d}.png").write_bytes(png(seed))
            seed += 1
    return root


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """File name -> content of a folder without subfolders."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
