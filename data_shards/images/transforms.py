"""From image files to arrays. Legend: B images, H height, W width, C channels."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from data_shards.errors import DataError

_MODES = {1: "L", 3: "RGB"}
_MAX_16_BIT = 65535


def open_image(data: bytes) -> Image.Image:
    """Decode an image file completely, rotated upright by its EXIF data.

    Raises:
        DataError: when Pillow cannot read it, or its pixels are floating-point numbers or integers
            outside 0..65535, for which black and white are undefined; the caller adds the name.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:  # its text names an object in memory, not a file
        raise DataError(f"not an image that Pillow can read ({len(data):,} bytes)") from error
    except Exception as error:  # noqa: BLE001 - on broken files Pillow's parsers raise many kinds
        raise DataError(
            f"not an image that Pillow can read ({len(data):,} bytes): {error}"
        ) from error
    _check_range(upright)
    return upright


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return (H, W) or (H, W, 3) uint8 pixels as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def decode_image(data: bytes, *, size: int | None, channels: int) -> npt.NDArray[np.uint8]:
    """Decode an image file to a square of pixels.

    An image of another size is resized (bilinear, antialiased) by its short side and cropped to
    its centre. 16-bit grey images (Pillow's modes I;16 and I) are divided by 257, so that 65535
    becomes 255, whatever their largest value is.

    Args:
        data: image file in any format that Pillow reads.
        size: height and width of the result; None keeps those of the image.
        channels: 1 for grey, 3 for RGB.

    Returns:
        (size, size, channels) uint8.

    Raises:
        DataError: when the image cannot be read, as for `open_image`.
    """
    return _to_pixels(open_image(data), size=size, channels=channels)


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
    if image.mode == "P":
        # A palette with transparency makes Pillow warn unless it goes through RGBA.
        image = image.convert("RGBA")
    elif _is_16_bit(image):
        # Pillow's own conversion clips at 255, which leaves such an image white.
        image = Image.fromarray(_to_8_bit(np.asarray(image)))
    image = image.convert(_MODES[channels])
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, channels)


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def _check_range(image: Image.Image) -> None:
    expected = "expected 8-bit or 16-bit integers; save it as an 8-bit or 16-bit PNG"
    if image.mode == "F":
        raise DataError(f"its pixels are floating-point numbers (Pillow's mode F); {expected}")
    if image.mode == "I":  # 32 bits in memory, also where the file has 16
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > _MAX_16_BIT:
            raise DataError(
                f"its pixels are integers {pixels.min()}..{pixels.max()} (Pillow's mode I), "
                f"more than 0..{_MAX_16_BIT}; {expected}"
            )


def _to_8_bit(pixels: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Return (H, W) integers 0..65535 as 0..255, rounded."""
    return ((pixels.astype(np.int32) + 128) // 257).astype(np.uint8)


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
