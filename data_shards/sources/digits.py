"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8x8 pixels."""

from __future__ import annotations

from functools import partial

import numpy as np

from data_shards.images.transforms import encode_png
from data_shards.sources.base import Source, SourceItem

COLUMN = "digit"


def read() -> Source:
    """List the digits; their label column is "digit"."""
    from sklearn.datasets import load_digits  # seconds to import, and only this source needs it

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    items = [
        SourceItem(f"digits/{number:04d}", {COLUMN: int(label)}, partial(encode_png, image), "png")
        for number, (image, label) in enumerate(zip(pixels, bunch.target, strict=True))
    ]
    names = tuple(str(name) for name in bunch.target_names)
    return Source("digits", {"train": items}, (COLUMN,), {COLUMN: names})
