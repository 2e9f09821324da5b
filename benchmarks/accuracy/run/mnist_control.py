"""Rotated digits on photographs, with a share of some digits removed: the control of LMLE.

Huang et al., "Learning Deep Representation for Imbalanced Classification", CVPR 2016, train on
MNIST-rot-back-image (Larochelle et al., "An empirical evaluation of deep architectures on problems
with many factors of variation", ICML 2007) from which 0, 20 or 40 % of the images of some classes
are taken. As there: digits turned by a uniform angle, patches of grey photographs behind them,
patches without texture left out. Not as there, or not known:

- Training images: MNIST's own, 12,000 at most, where the published 12,000 and 50,000 are drawn
  from all of MNIST.
- Test images: MNIST's official 10,000, each once, not 50,000.
- Photographs: the two that ship with scikit-learn, in regions of their own for training and test;
  the published set has twenty from the internet.
- How digit and patch are joined: here the brighter pixel; not known of the published set.
- Which digits lose images: here the even ones; not known of LMLE's experiment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from data_shards.images.opening import open_image
from data_shards.images.transforms import encode_png
from data_shards.importing.long_tail import thin
from data_shards.sources.base import Source, SourceItem

MAX_TRAINING_IMAGES = 12_000
# Half of the classes; of 6 and 9, which a rotation makes alike, one.
REDUCED_CLASSES = (0, 2, 4, 6, 8)
SIDE = 28
"""Pixels of an image, in height and width."""
TILE_SIDE = 61
"""Pixels of the squares that a photograph is cut into; 7 of them fill its height of 427."""
TEST_TILE_EVERY = 3
MIN_PATCH_DEVIATION = 20.0
"""Grey levels; patches whose pixels deviate less from their mean have too little texture."""

_SEED = 2016
_CHOICE, _REMOVAL, _TRAIN, _TEST = range(4)  # streams of chance, so that none shifts another

Pixels = npt.NDArray[np.uint8]


def control_images(source: Source, *, removed: float) -> Source:
    """Put the digits of MNIST on photographs and remove some of the training images.

    Nothing but the removal depends on `removed`: test images are the same for every share, and
    training images that are left are the same as with a smaller share.

    Args:
        source: splits "train" and "test" of grey images of `SIDE` x `SIDE` pixels.
        removed: share of the training images of each of `REDUCED_CLASSES`, 0 <= removed < 1.
    """
    train_tiles, test_tiles = _photo_tiles()
    items = source.splits["train"]
    chosen = np.sort(_stream(_CHOICE).permutation(len(items))[:MAX_TRAINING_IMAGES])
    train = _on_photographs([items[at] for at in chosen], train_tiles, _stream(_TRAIN))
    column = source.label_columns[0]
    labels = np.array([item.labels[column] for item in train])
    counts = np.bincount(labels, minlength=len(source.label_names[column]))
    kept = thin(labels, counts_left(counts, removed), _stream(_REMOVAL))
    return replace(
        source,
        name="mnist_control",
        splits={
            "train": [train[at] for at in kept],
            "test": _on_photographs(source.splits["test"], test_tiles, _stream(_TEST)),
        },
    )


def counts_left(counts: npt.NDArray[np.int64], removed: float) -> npt.NDArray[np.int64]:
    """Return the training images of each class, (C,) int64, once a share of some is removed."""
    left = counts.copy()
    reduced = list(REDUCED_CLASSES)
    left[reduced] -= np.rint(removed * counts[reduced]).astype(np.int64)
    return left


def tiles_of(photo: Pixels) -> tuple[list[Pixels], list[Pixels]]:
    """Cut a photograph, (H, W) uint8, into squares: those for training and those for testing.

    No two squares share a pixel. Every third is for testing, and rows of ten make the thirds
    diagonal, so that sky, buildings and flower are behind digits of both splits.
    """
    tiles = [
        photo[top : top + TILE_SIDE, left : left + TILE_SIDE]
        for top in range(0, photo.shape[0] - TILE_SIDE + 1, TILE_SIDE)
        for left in range(0, photo.shape[1] - TILE_SIDE + 1, TILE_SIDE)
    ]
    test = tiles[::TEST_TILE_EVERY]
    return [tile for at, tile in enumerate(tiles) if at % TEST_TILE_EVERY], test


def draw_patch(tiles: Sequence[Pixels], rng: np.random.Generator) -> Pixels:
    """Draw one of the patches with texture, (SIDE, SIDE), that lie within a tile, all as likely."""
    while True:
        tile = tiles[int(rng.integers(len(tiles)))]
        top, left = rng.integers(TILE_SIDE - SIDE + 1, size=2).tolist()
        patch = tile[top : top + SIDE, left : left + SIDE]
        if patch.std() >= MIN_PATCH_DEVIATION:
            return patch


def on_patch(digit: Image.Image, angle_deg: float, patch: Pixels) -> Pixels:
    """Turn a digit counter-clockwise about the centre, and keep the brighter of it and the patch.

    Args:
        digit: grey, as large as the patch; what the turn brings in from outside is black.
        angle_deg: any.
        patch: (H, W) uint8.
    """
    turned = digit.rotate(angle_deg, resample=Image.Resampling.BILINEAR)
    joined: Pixels = np.maximum(np.asarray(turned), patch)
    return joined


def _on_photographs(
    items: Sequence[SourceItem], tiles: Sequence[Pixels], rng: np.random.Generator
) -> list[SourceItem]:
    angles_deg = rng.uniform(0, 360, size=len(items)).tolist()
    return [
        replace(item, load=partial(_load, item, angle_deg, draw_patch(tiles, rng)), extension="png")
        for item, angle_deg in zip(items, angles_deg, strict=True)
    ]


def _load(item: SourceItem, angle_deg: float, patch: Pixels) -> bytes:
    return encode_png(on_patch(open_image(item.load()), angle_deg, patch))


def _photo_tiles() -> tuple[list[Pixels], list[Pixels]]:
    from sklearn.datasets import load_sample_images  # seconds to import

    train: list[Pixels] = []
    test: list[Pixels] = []
    for photo in load_sample_images().images:
        for_training, for_testing = tiles_of(np.asarray(Image.fromarray(photo).convert("L")))
        train += for_training
        test += for_testing
    return train, test


def _stream(number: int) -> np.random.Generator:
    return np.random.default_rng([_SEED, number])
