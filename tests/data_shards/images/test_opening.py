"""Whatever the bytes are: the same picture for every network, or a DataError."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from data_shards.errors import DataError
from data_shards.images.limits import SHARD_LIMITS, USUAL_LIMITS, ImageLimits
from data_shards.images.opening import open_image
from data_shards.images.transforms import check_image, decode_image, encode_png
from tests.helpers.image_files import encoded, files_of, noise, tiff

RAMP = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
DEEP = {
    "I;16 of a PNG": ("PNG", Image.fromarray(RAMP), "I;16"),
    "I;16 of a TIFF": ("TIFF", Image.fromarray(RAMP), "I;16"),
    "I;16B of a TIFF": (
        "TIFF",
        Image.frombytes("I;16B", RAMP.shape, RAMP.astype(">u2").tobytes()),
        "I;16B",
    ),
    "I of a TIFF": ("TIFF", Image.fromarray(RAMP.astype(np.int32)), "I"),
    "I of a PGM": ("PPM", Image.fromarray(RAMP), "I"),
}
WRITABLE = tuple(name for name in SHARD_LIMITS.formats if name != "SUN")
SMALL = ImageLimits(formats=SHARD_LIMITS.formats, max_pixels=1_000_000)


def of_file(data: bytes) -> Image.Image:
    """As Pillow decodes it."""
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_keep_their_order_and_range(kind: str, channels: int) -> None:
    format_name, image, mode = DEEP[kind]
    data = encoded(image, format_name)
    assert of_file(data).mode == mode
    decoded = decode_image(data, size=256, channels=channels)
    for channel in range(channels):
        ramp = decoded[:, :, channel].ravel()
        assert (ramp[0], ramp[-1]) == (0, 255)
        assert set(np.diff(ramp.astype(int))) == {0, 1}
        np.testing.assert_array_equal(ramp, np.rint(np.arange(1 << 16) / 257))


@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_by_their_mode_and_not_by_their_content(format_name: str) -> None:
    dark = np.full((4, 4), 200, dtype=np.uint16)
    dark[0] = 3
    decoded = decode_image(encoded(Image.fromarray(dark), format_name), size=4, channels=1)
    assert set(decoded[0].ravel()) == {0}
    assert set(decoded[1:].ravel()) == {1}


def test_32_bits_with_nothing_above_255_are_8_bits() -> None:
    pixels = noise(8, 8)
    for channels in (1, 3):
        data = encoded(Image.fromarray(pixels.astype(np.int32)), "TIFF")
        assert of_file(data).mode == "I"
        decoded = decode_image(data, size=8, channels=channels)
        np.testing.assert_array_equal(decoded, np.repeat(pixels[:, :, None], channels, axis=2))
    pixels[0, 0] = 255
    deeper = encoded(Image.fromarray(pixels.astype(np.int32) + 1), "TIFF")
    assert decode_image(deeper, size=8, channels=1).max() == 1


def test_12_bits_are_scaled_by_4095() -> None:
    ramp = np.arange(1 << 12)
    bytes_of_pairs = [ramp[::2] >> 4, (ramp[::2] & 15) << 4 | ramp[1::2] >> 8, ramp[1::2] & 255]
    packed = np.stack(bytes_of_pairs, axis=1).astype(np.uint8)
    data = tiff(packed, size=(64, 64), tags={258: 12})
    decoded = decode_image(data, size=64, channels=1)
    np.testing.assert_array_equal(decoded.ravel(), np.rint(ramp / 4095 * 255))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 4), dtype=np.float32), r"floating-point numbers \(Pillow's mode F\)"),
        (
            np.full((4, 4), 65536, dtype=np.int32),
            r"integers 65536\.\.65536 .*, more than 0\.\.65535",
        ),
        (np.full((4, 4), -1, dtype=np.int32), r"integers -1\.\.-1 "),
    ],
)
def test_pixels_of_unknown_range_are_refused(pixels: np.ndarray, message: str) -> None:
    data = encoded(Image.fromarray(pixels), "TIFF")
    for read in (open_image, lambda data: decode_image(data, size=4, channels=3)):
        with pytest.raises(DataError, match=message + ".*save it as an 8-bit"):
            read(data)


@pytest.mark.parametrize("format_name", WRITABLE)
def test_what_import_accepts_of_any_mode_every_network_gets(format_name: str) -> None:
    for mode, data in files_of(format_name).items():
        if of_file(data).mode == "F":
            with pytest.raises(DataError, match="floating-point"):
                check_image(data, SHARD_LIMITS)
            continue
        check_image(data, SHARD_LIMITS)
        for channels in (1, 3):
            for size in (None, 1, 6, 40):
                decoded = decode_image(data, size=size, channels=channels, limits=SHARD_LIMITS)
                assert decoded.shape == (size or 12, size or 10, channels), mode


def test_lab_is_grey_as_its_colours_are() -> None:
    data = files_of("TIFF")["LAB"]
    colours = Image.fromarray(decode_image(data, size=None, channels=3))
    grey = decode_image(data, size=None, channels=1)[:, :, 0]
    np.testing.assert_array_equal(grey, np.asarray(colours.convert("L")))


def test_colours_that_cannot_be_converted_are_a_data_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("data_shards.images.transforms._BY_WAY_OF", {})
    data = files_of("TIFF")["LAB"]
    for read in (
        lambda data: decode_image(data, size=6, channels=1),
        lambda data: check_image(data, USUAL_LIMITS),
    ):
        with pytest.raises(DataError, match="conversion from LAB"):
            read(data)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_that_is_multiplied_by_its_transparency_is_divided_again(channels: int) -> None:
    pixels = np.tile(np.array([50, 100], dtype=np.uint8), (4, 4, 1))
    data = tiff(pixels, size=(4, 4), tags={258: 8 | 8 << 16, 277: 2, 338: 1})
    data = data.replace(b"\x02\x01\x04\0\1\0", b"\x02\x01\x03\0\2\0")  # two depths
    assert of_file(data).mode == "La"
    assert set(decode_image(data, size=4, channels=channels).ravel()) == {127}


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright(format_name: str, orientation: int) -> None:
    pixels = noise(6, 8)
    stored = [pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1]]
    stored += [pixels.T, np.rot90(pixels), pixels.T[::-1, ::-1], np.rot90(pixels, 3)]
    image = Image.fromarray(np.ascontiguousarray(stored[orientation - 1])).convert("RGB")
    lossless = {"lossless": True} if format_name == "WEBP" else {}
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, format_name, exif=exif, **lossless)
    decoded = decode_image(data, size=None, channels=1)[:, :, 0].astype(int)
    assert decoded.shape == pixels.shape
    assert np.abs(decoded - pixels).mean() < (30 if format_name == "JPEG" else 1)


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_picture_of_an_animation_counts(format_name: str) -> None:
    frames = [Image.fromarray(noise(8, 8)), Image.new("L", (8, 8))]
    lossless = {"lossless": True} if format_name == "WEBP" else {}
    data = encoded(frames[0], format_name, save_all=True, append_images=frames[1:], **lossless)
    decoded = decode_image(data, size=8, channels=1)
    np.testing.assert_array_equal(decoded, decode_image(encoded(frames[0]), size=8, channels=1))


@pytest.mark.parametrize("data", [b"", b"read me"])
def test_what_is_no_image_is_refused_without_an_address_in_memory(data: bytes) -> None:
    with pytest.raises(DataError) as caught:
        open_image(data)
    formats = ",".join(USUAL_LIMITS.formats)
    assert str(caught.value) == (
        f"not an image that Pillow can read ({len(data)} bytes); "
        f"expected one of --formats {formats}"
    )


def test_an_image_that_is_cut_off_is_refused() -> None:
    with pytest.raises(DataError, match=r"not an image that Pillow can read \(300 bytes\): \w+"):
        open_image(encode_png(noise(64, 64))[:300])


def test_memory_that_runs_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(DataError, match=r"\([\d,]+ bytes\): MemoryError"):
        open_image(encode_png(noise(8, 8)))


def spoilt(data: bytes, rng: np.random.Generator) -> bytes:
    """A file with some bits or bytes changed, cut out, put in, or cut off."""
    changed, at = bytearray(data), int(rng.integers(len(data)))
    kind = rng.integers(4)
    if kind == 0:
        for place in rng.integers(len(data), size=3):
            changed[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        changed[at : at + int(rng.integers(20))] = rng.bytes(int(rng.integers(20)))
    elif kind == 2:
        changed[min(at, 60)] = int(rng.choice([0, 1, 127, 255]))
    else:
        del changed[at:]
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format_name", WRITABLE)
def test_spoilt_files_are_pixels_for_every_network_or_a_data_error(format_name: str) -> None:
    rng = np.random.default_rng(0)
    files = list(files_of(format_name).values())
    for number in range(120):
        data = spoilt(files[number % len(files)], rng)
        outcomes = set()
        for read in (
            lambda data: check_image(data, SMALL),
            lambda data: decode_image(data, size=8, channels=1, limits=SMALL),
            lambda data: decode_image(data, size=8, channels=3, limits=SMALL),
        ):
            try:
                read(data)
                outcomes.add("pixels")
            except DataError as error:
                outcomes.add(str(error))
        assert len(outcomes) == 1
