"""From the bytes of an image file to its picture. Legend: H height, W width."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, TILELENGTH, TILEWIDTH, TiffImageFile

from data_shards.errors import DataError
from data_shards.images.limits import USUAL_LIMITS, ImageLimits
from data_shards.images.metadata import without_metadata

_MAX_8_BIT, _MAX_12_BIT, _MAX_16_BIT = 255, 4095, 65535
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what undoes it."""


def open_image(data: bytes, limits: ImageLimits = USUAL_LIMITS) -> Image.Image:
    """Decode an image file completely: its first picture, upright by its EXIF data.

    Metadata that are damaged or too large for Pillow are left out. Deeper grey images become 8
    bits: 65535 is white, 4095 in a 12-bit TIFF, 255 in a 32-bit TIFF without a larger value.

    Returns:
        An image of 8 bits or less, of any of Pillow's modes for it.

    Raises:
        DataError: when it is beyond the limits, Pillow cannot read it, or its pixels are
            floating-point numbers or integers outside 0..65535, for which black and white are
            undefined; the caller adds the name.
    """
    with only_data_errors(data, limits):
        image = _loaded(data, limits)
        turn = _TURNS.get(_orientation(image))
        upright = _at_8_bits(image)
        return upright if turn is None else upright.transpose(turn)


@contextmanager
def only_data_errors(data: bytes, limits: ImageLimits) -> Iterator[None]:
    """Turn whatever Pillow raises at an image file into a DataError."""
    size = f"{len(data):,} bytes"
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:  # its text names an object in memory, not a file
        raise DataError(
            f"not an image that Pillow can read ({size}); expected one of --formats "
            f"{','.join(limits.formats)}"
        ) from error
    except _TOO_LARGE as error:
        raise DataError(
            f"more than --max-pixels {limits.max_pixels:,} ({size}); raise that to accept it"
        ) from error
    except Exception as error:  # noqa: BLE001 - on broken files Pillow's parsers raise many kinds
        reason = str(error) or type(error).__name__
        raise DataError(
            f"not an image that Pillow can read ({size}): {reason}; expected an undamaged file"
        ) from error


def _loaded(data: bytes, limits: ImageLimits) -> Image.Image:
    """The image as it is stored. What pixels do not need may not keep it from being read."""
    try:
        return _load(data, limits)
    except _TOO_LARGE:
        raise
    except Exception:
        pixels_only = without_metadata(data)
        if len(pixels_only) == len(data):
            raise
        return _load(pixels_only, limits)


def _load(data: bytes, limits: ImageLimits) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=limits.formats)
    if max(image.width * image.height, _tile_area(image)) > limits.max_pixels:
        raise Image.DecompressionBombError
    image.load()
    return image


def _tile_area(image: Image.Image) -> int:
    """Pixels of a tile, which may be larger than the image; 0 where there are none."""
    if not isinstance(image, TiffImageFile):
        return 0
    return int(image.tag_v2.get(TILEWIDTH, 0)) * int(image.tag_v2.get(TILELENGTH, 0))


def _at_8_bits(image: Image.Image) -> Image.Image:
    expected = "expected 8-bit or 16-bit integers; save it as an 8-bit or 16-bit PNG"
    if image.mode == "F":
        raise DataError(f"its pixels are floating-point numbers (Pillow's mode F); {expected}")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > _MAX_16_BIT:  # mode I is 32 bits
        raise DataError(
            f"its pixels are integers {pixels.min()}..{pixels.max()} (Pillow's mode I), "
            f"more than 0..{_MAX_16_BIT}; {expected}"
        )
    # Pillow's own conversion clips at 255, which leaves such an image white.
    return Image.fromarray(_scaled(pixels, white=_white(image, pixels)))


def _white(image: Image.Image, pixels: npt.NDArray[np.integer]) -> int:
    """What is white in an image of more than 8 bits, by the file; a TIFF of 32 bits does not say.

    So its content decides: one of 16 bits without a value above 255 would be all but black.
    """
    if isinstance(image, TiffImageFile) and image.mode == "I" and pixels.max() <= _MAX_8_BIT:
        return _MAX_8_BIT
    if isinstance(image, TiffImageFile) and image.tag_v2.get(BITSPERSAMPLE) == (12,):
        return _MAX_12_BIT
    return _MAX_16_BIT


def _scaled(pixels: npt.NDArray[np.integer], *, white: int) -> npt.NDArray[np.uint8]:
    """Return (H, W) integers 0..white as 0..255, rounded."""
    return ((pixels.astype(np.int32) * 255 + white // 2) // white).astype(np.uint8)


def _orientation(image: Image.Image) -> object:
    """What the EXIF data say; None without readable ones: nothing then says that it lies."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 - as of broken files
        return None
