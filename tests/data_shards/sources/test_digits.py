from __future__ import annotations

import numpy as np

from data_shards.images.transforms import decode_image
from data_shards.sources import digits


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    source = digits.read()
    bunch = load_digits()
    items = source.splits["train"]
    assert list(source.splits) == ["train"]
    assert source.label_names == {"digit": tuple("0123456789")}
    assert [item.labels["digit"] for item in items] == bunch.target.tolist()
    pixels = np.stack([decode_image(item.load(), size=8, channels=1) for item in items[:50]])
    np.testing.assert_allclose(pixels[..., 0] / 255, bunch.images[:50] / 16, atol=1 / 255)
    assert (pixels.min(), pixels.max()) == (0, 255)
