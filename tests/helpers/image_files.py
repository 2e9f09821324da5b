"""Image files of every kind, whole and spoilt, for tests of decoding."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

Pixels = np.ndarray


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def encoded(image: Image.Image, format_name: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=format_name, **options)
    return stream.getvalue()


def of_mode(mode: str) -> Image.Image:
    """A 12 x 10 image of one of Pillow's modes."""
    colours = Image.fromarray(noise(12, 10, 3))
    if mode.startswith("I"):
        dtype = "=i4" if mode == "I" else ">u2" if mode.endswith("B") else "<u2"
        return Image.frombytes(mode, (10, 12), np.arange(120, dtype=dtype).tobytes())
    if mode == "LAB":
        return Image.frombytes(mode, (10, 12), colours.tobytes())
    way = {"F": "L", "PA": "P", "La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
    return colours.convert(way).convert(mode)


MODES = (
    *("1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"),
    *("HSV", "I", "F", "I;16", "I;16B", "I;16L"),
)


def files_of(format_name: str) -> dict[str, bytes]:
    """Mode -> a file, for those of Pillow's modes that can be written in a format."""
    found = {}
    for mode in MODES:
        try:
            found[mode] = encoded(of_mode(mode), format_name)
        except (OSError, ValueError, KeyError):
            continue
    return found


def png_chunk(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def tiff(pixels: Pixels, *, size: tuple[int, int], tags: dict[int, int]) -> bytes:
    """A TIFF of raw data, where Pillow cannot write one: width and height, tag -> value."""
    width, height = size
    data = pixels.tobytes()
    plain = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 278: height, 279: len(data)}
    tags = {**plain, **tags}
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = sorted({**tags, (324 if 322 in tags else 273): start}.items())
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + data
