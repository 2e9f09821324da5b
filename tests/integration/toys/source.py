"""A toy source: bright rows or bright columns, with noise."""

from __future__ import annotations

from functools import partial

import numpy as np

from data_shards.images.transforms import encode_png
from data_shards.sources.base import Source, SourceItem

NAMES = ("rows", "columns")
COUNTS = (24, 12)
SIZE = 8


def read() -> Source:
    """List the images; their label column is "direction"."""
    items = [
        SourceItem(
            f"{NAMES[label]}/{number}", {"direction": label}, partial(_draw, label, number), "png"
        )
        for label, count in enumerate(COUNTS)
        for number in range(count)
    ]
    return Source("toy", {"train": items}, ("direction",), {"direction": NAMES})


def _draw(label: int, number: int) -> bytes:
    pixels = np.random.default_rng((label, number)).integers(0, 100, (SIZE, SIZE), dtype=np.uint8)
    pixels[::2] += 150
    return encode_png(pixels if label == 0 else pixels.T.copy())
