"""From image files to arrays. Legend: B images, H height, W width, C channels."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from data_shards.errors import DataError

_MODES = {1: "L", 3: "RGB"}


def open_image(data: bytes) -> Image.Image:
    """Decode an image file in full, upright as its EXIF data say.

    Raises:
        DataError: when Pillow cannot read it; the caller adds the name.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return ImageOps.exif_transpose(image)
    except Exception as error:  # noqa: BLE001 - on broken files Pillow's parsers raise many kinds
        raise DataError(f"not an image that can be read ({len(data):,} bytes): {error}") from error


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return (H, W) or (H, W, 3) uint8 pixels as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def decode_image(data: bytes, *, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """Decode an image file to a square of pixels.

    Another size is resized (bilinear, antialiased) by its short side and cut to the centre.

    Args:
        data: image file in any format that Pillow reads.
        size: height and width of the result.
        channels: 1 for grey, 3 for RGB.

    Returns:
        (size, size, channels) uint8.

    Raises:
        DataError: when the image cannot be read.
    """
    if channels not in _MODES:
        raise DataError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    image = open_image(data)
    if image.mode == "P":
        # A palette with transparency makes Pillow warn unless it goes through RGBA.
        image = image.convert("RGBA")
    image = image.convert(_MODES[channels])
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(size, size, channels)


def augment(
    images: npt.NDArray[np.uint8], rng: np.random.Generator, *, shift: int, flip: bool
) -> npt.NDArray[np.uint8]:
    """Shift each image by up to `shift` pixels both ways and mirror half of them.

    Args:
        images: (B, H, W, C) uint8.
        rng: the only source of chance.
        shift: largest shift in pixels, 0 for none; the edge is repeated into the gap.
        flip: True to mirror left and right with probability 1/2.

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
