"""Formats and sizes from outside are refused before anything is decoded."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from data_shards.errors import DataError
from data_shards.images.limits import (
    SHARD_LIMITS,
    USUAL_LIMITS,
    ImageLimits,
    add_limit_options,
    limits_of,
)
from data_shards.images.transforms import check_image, decode_image
from tests.helpers.image_files import encoded, noise, tiff


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_prepare(self: object) -> None:
        raise AssertionError("memory for pixels")

    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", load_prepare)


def huge_webp() -> bytes:
    """An animation whose header promises 13,000 x 13,000 pixels."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    at = data.index(b"VP8X") + 12
    return data[:at] + (13_000 - 1).to_bytes(3, "little") * 2 + data[at + 6 :]


HUGE = {
    "PNG": encoded(Image.new("1", (8000, 7000)), "PNG"),
    "GIF": encoded(Image.new("L", (8000, 7000)), "GIF"),
    "JPEG": encoded(Image.new("L", (8000, 7000)), "JPEG"),
    "beyond Pillow's limit": encoded(Image.new("1", (20_000, 10_000)), "PNG"),
    "animated WebP": huge_webp(),
    "tile of a TIFF": tiff(noise(1), size=(1, 1), tags={322: 8000, 323: 7000, 325: 1}),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize("kind", HUGE)
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(kind: str) -> None:
    with pytest.raises(DataError, match=r"more than --max-pixels 50,000,000 \([\d,]+ bytes\)"):
        decode_image(HUGE[kind], size=8, channels=3)


def test_the_limit_is_a_setting_and_shards_are_read_whatever_it_was() -> None:
    data = encoded(Image.fromarray(noise(10, 12)))
    check_image(data, ImageLimits(max_pixels=120))
    with pytest.raises(DataError, match="more than --max-pixels 119 "):
        check_image(data, ImageLimits(max_pixels=119))
    large = HUGE["PNG"]
    check_image(large, ImageLimits(max_pixels=8000 * 7000))
    assert decode_image(large, size=4, channels=1, limits=SHARD_LIMITS).shape == (4, 4, 1)


@pytest.mark.parametrize("limits", [USUAL_LIMITS, SHARD_LIMITS])
def test_no_image_starts_another_program(
    limits: ImageLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript"))
    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "_open", lambda _: pytest.fail("parsed"))
    with pytest.raises(DataError, match=r"not an image that Pillow can read .* one of --formats"):
        check_image(encoded(Image.fromarray(noise(8, 8)), "EPS"), limits)


@pytest.mark.parametrize("format_name", SHARD_LIMITS.formats)
def test_a_format_is_read_when_it_is_accepted(format_name: str) -> None:
    if format_name == "SUN":  # Pillow only reads it
        header = np.array([0x59A66A95, 8, 8, 8, 64, 1, 0, 0], dtype=">u4")
        data = header.tobytes() + noise(8, 8).tobytes()
    else:
        data = encoded(Image.fromarray(noise(8, 8)), format_name)
    check_image(data, ImageLimits(formats=(format_name,)))
    assert decode_image(data, size=8, channels=3, limits=SHARD_LIMITS).any()
    others = tuple(name for name in SHARD_LIMITS.formats if name != format_name)
    with pytest.raises(DataError, match="one of --formats"):
        check_image(data, ImageLimits(formats=others))


def test_the_picture_of_a_phone_with_a_second_one_inside_is_a_jpeg() -> None:
    picture = Image.fromarray(noise(8, 8))
    data = encoded(picture, "MPO", save_all=True, append_images=[picture.rotate(90)])
    expected = decode_image(encoded(picture, "JPEG"), size=8, channels=1)
    np.testing.assert_array_equal(decode_image(data, size=8, channels=1), expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--formats eps", "--formats must be some of JPEG,.*, got EPS"),
        ("--formats JPG,PNG", "got JPG"),
        ("--formats ,", "got none"),
        ("--max-pixels 0", "--max-pixels must be >= 1 and <= 178,956,970, got 0"),
        ("--max-pixels 178956971", "got 178,956,971"),
    ],
)
def test_limits_that_cannot_be_are_refused(words: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        limits_of(parsed(words))


def test_the_options_say_the_limits() -> None:
    assert limits_of(parsed("")) == USUAL_LIMITS
    asked = limits_of(parsed("--formats jpeg,AVIF --max-pixels 7"))
    assert asked == ImageLimits(formats=("JPEG", "AVIF"), max_pixels=7)


def parsed(words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_limit_options(parser)
    return parser.parse_args(words.split())
