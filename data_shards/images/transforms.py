"""From image files to arrays. Legend: B images, H height, W width, C channels."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from data_shards.errors import DataError
from data_shards.images.limits import USUAL_LIMITS, ImageLimits
from data_shards.images.opening import only_data_errors, open_image

_MODES = {1: "L", 3: "RGB"}
# Pillow turns these into neither, or warns: a palette may have transparency.
_BY_WAY_OF = {"P": "RGBA", "La": "LA", "LAB": "RGB"}


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return (H, W) or (H, W, 3) uint8 pixels as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def decode_image(
    data: bytes, *, size: int | None, channels: int, limits: ImageLimits = USUAL_LIMITS
) -> npt.NDArray[np.uint8]:
    """Decode an image file to a square of pixels.

    An image of another size is resized (bilinear, antialiased) by its short side and cropped to
    its centre.

    Args:
        data: image file.
        size: height and width of the result; None keeps those of the image.
        channels: 1 for grey, 3 for RGB.
        limits: the formats and sizes that are accepted.

    Returns:
        (size, size, channels) uint8.

    Raises:
        DataError: when the image cannot be used, as for `open_image`.
    """
    with only_data_errors(data, limits):
        return _to_pixels(open_image(data, limits), size=size, channels=channels)


def check_image(data: bytes, limits: ImageLimits) -> None:
    """Refuse an image file that a network of one or of three channels could not be given.

    Raises:
        DataError: as of `decode_image`.
    """
    with only_data_errors(data, limits):
        image = open_image(data, limits)
        for channels in _MODES:
            _to_pixels(image, size=1, channels=channels)


def fit_pixels(
    pixels: npt.NDArray[np.uint8], *, size: int | None, channels: int
) -> npt.NDArray[np.uint8]:
    """Bring decoded pixels to a size and a number of channels, as `decode_image` does.

    Args:
        pixels: (H, W), (H, W, 1) or (H, W, 3) uint8.
        size: height and width of the result; None keeps those of the image.
        channels: 1 for grey, 3 for RGB.

    Returns:
        (size, size, channels) uint8.

    Raises:
        DataError: on another shape or dtype, or another number of channels.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not is_image or not pixels.size:
        raise DataError(
            "pixels must be uint8 of shape (H, W), (H, W, 1) or (H, W, 3), "
            f"got {pixels.dtype} of shape {pixels.shape}"
        )
    return _to_pixels(Image.fromarray(pixels), size=size, channels=channels)


def _to_pixels(image: Image.Image, *, size: int | None, channels: int) -> npt.NDArray[np.uint8]:
    if channels not in _MODES:
        raise DataError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    for mode in (_BY_WAY_OF.get(image.mode), _MODES[channels]):
        if mode not in (None, image.mode):  # Pillow would copy the image
            image = image.convert(mode)
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, channels)


def augment(
    images: npt.NDArray[np.uint8], rng: np.random.Generator, *, shift: int, flip: bool
) -> npt.NDArray[np.uint8]:
    """Shift each image by up to `shift` pixels in each direction and mirror half of them.

    Args:
        images: (B, H, W, C) uint8.
        rng: the only source of randomness.
        shift: largest shift in pixels, 0 for none; edge pixels fill the gap.
        flip: True to mirror horizontally with probability 1/2.

    Returns:
        (B, H, W, C) uint8, a new array.
    """
    batch, height, width, _ = images.shape
    down, right = rng.integers(-shift, shift + 1, size=(2, batch, 1))
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    if flip:
        mirrored = rng.random(batch) < 0.5
        columns[mirrored] = columns[mirrored, ::-1]
    augmented: npt.NDArray[np.uint8] = images[
        np.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    return augmented


def to_float(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return (B, H, W, C) uint8 images as (B, C, H, W) float32 in [-1, 1]."""
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return channels_first.astype(np.float32) / np.float32(127.5) - np.float32(1)
