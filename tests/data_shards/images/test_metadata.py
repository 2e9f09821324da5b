"""What pixels do not need never keeps an image from being read."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from data_shards.errors import DataError
from data_shards.images.limits import USUAL_LIMITS
from data_shards.images.metadata import without_metadata
from data_shards.images.transforms import check_image, decode_image
from tests.helpers.image_files import encoded, jpeg_segment, noise, png_chunk

PICTURE = Image.fromarray(noise(12, 10, 3))
PNG = encoded(PICTURE)
JPEG, CMYK = encoded(PICTURE, "JPEG"), encoded(PICTURE.convert("CMYK"), "JPEG")
LARGE = zlib.compress(bytes(3 << 20))

CHUNKS = {
    "large zTXt": png_chunk(b"zTXt", b"k\0\0" + LARGE),
    "large iTXt": png_chunk(b"iTXt", b"k\0\1\0\0\0" + LARGE),
    "large tEXt": png_chunk(b"tEXt", b"k\0" + bytes(65 << 20)),
    "many zTXt": png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000))) * 70,
    "large profile": png_chunk(b"iCCP", b"k\0\0" + LARGE),
    "no profile": png_chunk(b"iCCP", b""),
    "unknown compression": png_chunk(b"iCCP", b"k\0\7x"),
    "wrong checksum": png_chunk(b"tEXt", b"k\0a")[:-1] + b"?",
    "cut tRNS": png_chunk(b"tRNS", b""),
    "cut acTL": png_chunk(b"acTL", b""),
    "EXIF of another kind": png_chunk(b"eXIf", b"garbage!!"),
    "EXIF that is no hex": png_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n3\nzz"),
    "XMP of another type": png_chunk(b"tEXt", b"xmp\0<a>"),
}
SEGMENTS = {
    "short profile": jpeg_segment(0xE2, b"ICC_PROFILE\0"),
    "short JFIF": jpeg_segment(0xE0, b"JFIF"),
    "short Adobe": jpeg_segment(0xEE, b"Adobe"),
    "bad Photoshop": jpeg_segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
    "bad list of pictures": jpeg_segment(0xE2, b"MPF\0garbage"),
    "EXIF of another kind": jpeg_segment(0xE1, b"Exif\0\0garbage!!"),
}


def colours(data: bytes) -> np.ndarray:
    return decode_image(data, size=None, channels=3)


@pytest.mark.parametrize("place", [33, -12])
@pytest.mark.parametrize("kind", CHUNKS)
def test_a_png_is_read_whatever_else_it_holds(kind: str, place: int) -> None:
    data = PNG[:place] + CHUNKS[kind] + PNG[place:]
    check_image(data, USUAL_LIMITS)
    np.testing.assert_array_equal(colours(data), colours(PNG))


@pytest.mark.parametrize("kind", SEGMENTS)
@pytest.mark.parametrize("plain", [JPEG, CMYK])
def test_a_jpeg_is_read_whatever_else_it_holds(kind: str, plain: bytes) -> None:
    data = plain[:2] + SEGMENTS[kind] + plain[2:]
    np.testing.assert_array_equal(colours(data), colours(plain))


def test_a_profile_that_unpacks_to_256_mib_takes_no_memory() -> None:
    packed = zlib.compress(bytes(1 << 28), 1)
    data = PNG[:33] + png_chunk(b"iCCP", b"k\0\0" + packed) + PNG[33:]
    tracemalloc.start()
    try:
        colours(data)
        assert tracemalloc.get_traced_memory()[1] < 5 * len(data) + (4 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("format_name", ["PNG", "JPEG"])
def test_an_image_is_turned_upright_though_other_metadata_are_bad(format_name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encoded(PICTURE, format_name, exif=exif)
    bad = CHUNKS["large profile"] if format_name == "PNG" else SEGMENTS["short profile"]
    place = 33 if format_name == "PNG" else 2
    assert colours(plain).shape == (10, 12, 3)
    np.testing.assert_array_equal(colours(plain[:place] + bad + plain[place:]), colours(plain))


def test_what_decides_the_pixels_stays() -> None:
    # Red, green and blue says Adobe; where both are, JFIF is right.
    adobe = jpeg_segment(0xEE, b"Adobe\0\x64" + bytes(5))
    only_adobe = JPEG[:2] + adobe + JPEG[20:]
    both = JPEG[:20] + adobe + JPEG[20:]
    assert (colours(only_adobe) != colours(both)).any()
    for plain in (JPEG, CMYK, only_adobe, both, PNG, encoded(PICTURE.convert("P"))):
        np.testing.assert_array_equal(colours(without_metadata(plain)), colours(plain))
    gif = encoded(PICTURE, "GIF")
    assert without_metadata(gif) == gif
    assert without_metadata(without_metadata(JPEG)) == without_metadata(JPEG)


@pytest.mark.parametrize("plain", [PNG, JPEG])
def test_a_file_that_ends_anywhere_is_refused_as_one_that_is_cut_off(plain: bytes) -> None:
    for length in range(len(plain) - 20):
        with pytest.raises(DataError, match="not an image that Pillow can read"):
            colours(plain[:length])
