"""Which image files are decoded: their formats and their size."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from data_shards.errors import DataError

_USUAL = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_FURTHER = ("AVIF", "JPEG2000", "PCX", "SGI", "SUN")
_ALL = _USUAL + _FURTHER
"""Each has a mark at its start, one picture that counts, and a decoder inside Pillow (not so EPS,
which starts Ghostscript)."""
_MOST_PIXELS = 178_956_970  # more are refused by Pillow


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """What is accepted of a file from outside: who wrote it is unknown, and each read costs."""

    formats: tuple[str, ...] = _USUAL
    """As Pillow names them."""
    max_pixels: int = 50_000_000
    """Width times height. Decoding as many takes up to 0.8 GB and 2 seconds."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in _ALL]
        if unknown or not self.formats:
            raise DataError(
                f"--formats must be some of {','.join(_ALL)}, got {','.join(unknown) or 'none'}"
            )
        if not 1 <= self.max_pixels <= _MOST_PIXELS:
            raise DataError(
                f"--max-pixels must be >= 1 and <= {_MOST_PIXELS:,}, got {self.max_pixels:,}"
            )


USUAL_LIMITS = ImageLimits()
SHARD_LIMITS = ImageLimits(formats=_ALL, max_pixels=_MOST_PIXELS)
"""Of images in shards: all that any import may have accepted."""


def add_limit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `limits_of` reads."""
    parser.add_argument(
        "--formats",
        default=",".join(USUAL_LIMITS.formats),
        metavar="A,B",
        help="formats of image files to accept (default %(default)s; there are also "
        f"{', '.join(_FURTHER)})",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=USUAL_LIMITS.max_pixels,
        metavar="N",
        help="refuse images of more pixels, before they are decoded (default "
        f"{USUAL_LIMITS.max_pixels:,}, which take up to 0.8 GB of memory)",
    )


def limits_of(arguments: argparse.Namespace) -> ImageLimits:
    """The limits that the options ask for.

    Raises:
        DataError: one is out of range.
    """
    formats = tuple(filter(None, arguments.formats.upper().split(",")))
    return ImageLimits(formats=formats, max_pixels=arguments.max_pixels)
