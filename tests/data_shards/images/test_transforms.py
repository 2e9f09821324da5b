from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data_shards.errors import DataError
from data_shards.images.transforms import augment, decode_image, encode_png, to_float
from tests.helpers import reference_data_shards as reference
from tests.helpers.image_files import encoded, noise


def test_an_image_of_the_wanted_size_comes_back_untouched() -> None:
    grey, colour = noise(8, 8), noise(8, 8, 3)
    np.testing.assert_array_equal(
        decode_image(encode_png(grey), size=8, channels=1), grey[:, :, None]
    )
    np.testing.assert_array_equal(decode_image(encode_png(colour), size=8, channels=3), colour)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_grey_or_rgb(mode: str, channels: int) -> None:
    image = Image.fromarray(noise(6, 6, 3)).convert("L" if mode == "I;16" else "RGB").convert(mode)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    decoded = decode_image(data, size=6, channels=channels)
    assert decoded.shape == (6, 6, channels)
    assert decoded.dtype == np.uint8


def test_a_palette_with_transparency_does_not_warn() -> None:
    data = encoded(Image.fromarray(noise(6, 6, 3)).convert("P"), transparency=b"\x00\x80\xff")
    assert decode_image(data, size=6, channels=3).shape == (6, 6, 3)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 40), (40, 16), (4, 4)])
def test_other_sizes_are_cut_to_the_centre_and_resized(height: int, width: int) -> None:
    image = Image.fromarray(noise(height, width))
    expected = reference.fitted(image, 8)
    decoded = decode_image(encoded(image), size=8, channels=1)
    np.testing.assert_array_equal(decoded[:, :, 0], np.asarray(expected))


def test_two_channels_are_refused() -> None:
    with pytest.raises(DataError, match="channels must be 1"):
        decode_image(encode_png(noise(8, 8)), size=8, channels=2)


@pytest.mark.parametrize("shift", [0, 1, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_augmented_images_are_shifts_and_mirrors(shift: int, flip: bool) -> None:
    images = noise(40, 5, 7, 3)
    before = images.copy()
    made = augment(images, np.random.default_rng(1), shift=shift, flip=flip)
    np.testing.assert_array_equal(images, before)
    assert made.shape == images.shape
    assert made.dtype == np.uint8
    for image, new in zip(images, made, strict=True):
        assert new.tobytes() in reference.augmentations(image, shift, flip=flip)


def test_augmentation_uses_its_whole_range_and_only_its_seed() -> None:
    images = np.repeat(noise(1, 5, 5, 1), 200, axis=0)
    made = augment(images, np.random.default_rng(1), shift=1, flip=True)
    assert {image.tobytes() for image in made} == reference.augmentations(images[0], 1, flip=True)
    again = augment(images, np.random.default_rng(1), shift=1, flip=True)
    np.testing.assert_array_equal(made, again)
    assert augment(images[:0], np.random.default_rng(1), shift=1, flip=True).shape == (0, 5, 5, 1)


def test_floats_lie_between_minus_one_and_one() -> None:
    images = noise(2, 3, 4, 3)
    images[0, 0, 0] = [0, 255, 51]
    floats = to_float(images)
    assert floats.shape == (2, 3, 3, 4)
    assert floats.dtype == np.float32
    assert floats.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(floats[0, :, 0, 0], [-1, 1, -0.6], atol=1e-6)
    np.testing.assert_allclose(floats[1, 2], images[1, :, :, 2] / 127.5 - 1, atol=1e-6)
