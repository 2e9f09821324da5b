from __future__ import annotations

import gzip
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.accuracy.run.datasets import import_data
from benchmarks.accuracy.run.mnist_control import (
    MAX_TRAINING_IMAGES,
    MIN_PATCH_DEVIATION,
    REDUCED_CLASSES,
    SIDE,
    TILE_SIDE,
    control_images,
    counts_left,
    draw_patch,
    on_patch,
    tiles_of,
)
from data_shards.images.opening import open_image
from data_shards.images.transforms import encode_png
from data_shards.sources.base import Source, SourceItem

DIGIT = np.zeros((SIDE, SIDE), dtype=np.uint8)
DIGIT[5:23, 12:16] = 255  # a bar with a foot: no turn but the whole one leaves it as it is
DIGIT[20:23, 12:20] = 255
NUM_TRAIN, NUM_TEST = 200, 30  # of ten classes in turn


def source(num_train: int = NUM_TRAIN) -> Source:
    load = partial(encode_png, DIGIT)
    splits = {
        split: [SourceItem(f"{split}/{at}", {"class": at % 10}, load, "png") for at in range(count)]
        for split, count in (("train", num_train), ("test", NUM_TEST))
    }
    return Source("idx", splits, ("class",), {"class": tuple("0123456789")})


def files(made: Source, split: str) -> dict[str, bytes]:
    return {item.name: item.load() for item in made.splits[split]}


def labels(made: Source, split: str) -> dict[str, int]:
    return {item.name: item.labels["class"] for item in made.splits[split]}


def numbered_photo() -> np.ndarray:
    """A photograph of the published size in which no two pixels are alike."""
    return np.arange(427 * 640).reshape(427, 640)


@pytest.fixture(scope="module")
def whole() -> Source:
    return control_images(source(), removed=0.0)


def test_the_same_images_are_made_again(whole: Source) -> None:
    again = control_images(source(), removed=0.0)
    for split in ("train", "test"):
        assert files(again, split) == files(whole, split)
        assert labels(again, split) == labels(source(), split)


def test_a_larger_share_takes_more_of_the_same_images_and_none_for_testing(whole: Source) -> None:
    before = files(whole, "train")
    for removed, left in ((0.2, 16), (0.4, 12)):
        made = control_images(source(), removed=removed)
        kept = files(made, "train")
        assert kept.items() < before.items()
        counts = np.bincount(list(labels(made, "train").values()))
        assert counts.tolist() == [left if c in REDUCED_CLASSES else 20 for c in range(10)]
        assert files(made, "test") == files(whole, "test")
        before = kept


def test_the_share_is_rounded() -> None:
    assert counts_left(np.arange(11, 21), 0.4).tolist() == [7, 12, 8, 14, 9, 16, 10, 18, 11, 20]


def test_no_more_training_images_than_the_published_set_has() -> None:
    made = control_images(source(MAX_TRAINING_IMAGES + 10), removed=0.0)
    names = set(labels(made, "train"))
    assert len(names) == MAX_TRAINING_IMAGES
    # Chance left ten out, not the order.
    assert {f"train/{MAX_TRAINING_IMAGES + at}" for at in range(10)} & names


def test_images_differ_though_their_digits_do_not(whole: Source) -> None:
    made = [*files(whole, "train").values(), *files(whole, "test").values()]
    assert len(set(made)) == NUM_TRAIN + NUM_TEST


def test_no_background_is_shared_by_training_and_test() -> None:
    train, test = tiles_of(numbered_photo())
    assert (len(train), len(test)) == (46, 24)
    assert all(tile.shape == (TILE_SIDE, TILE_SIDE) for tile in (*train, *test))
    pixels = np.concatenate([np.ravel(tile) for tile in (*train, *test)])
    assert len(np.unique(pixels)) == len(pixels)


def test_patches_come_from_the_tiles_and_have_texture() -> None:
    train, test = tiles_of(numbered_photo())
    flat = np.full((TILE_SIDE, TILE_SIDE), 7)
    own, other = (set(np.ravel(tiles).tolist()) for tiles in (train, test))
    rng = np.random.default_rng(0)
    for _ in range(50):
        patch = draw_patch([*train, flat], rng)
        assert patch.shape == (SIDE, SIDE)
        assert patch.std() >= MIN_PATCH_DEVIATION
        assert set(patch.ravel().tolist()) <= own - other
        rows, columns = np.diff(patch, axis=0), np.diff(patch, axis=1)
        assert (rows == 640).all()
        assert (columns == 1).all()


@pytest.mark.parametrize("quarters", range(4))
def test_a_quarter_turn_keeps_every_pixel_of_the_digit(quarters: int) -> None:
    patch = np.random.default_rng(1).integers(0, 200, size=(SIDE, SIDE), dtype=np.uint8)
    made = on_patch(Image.fromarray(DIGIT), 90.0 * quarters, patch)
    turned = np.rot90(DIGIT, quarters)
    expected = np.array(
        [[max(turned[i, j], patch[i, j]) for j in range(SIDE)] for i in range(SIDE)]
    )
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("angle_deg", [17.0, 133.0, 250.5])
def test_any_other_turn_is_about_the_centre(angle_deg: float) -> None:
    made = on_patch(Image.fromarray(DIGIT), angle_deg, np.zeros_like(DIGIT)).astype(float)

    def centroid(image: np.ndarray) -> complex:
        rows, columns = np.indices(image.shape) - (SIDE - 1) / 2
        return complex((image * columns).sum(), -(image * rows).sum()) / image.sum()

    expected = centroid(DIGIT.astype(float)) * np.exp(1j * np.deg2rad(angle_deg))
    assert abs(centroid(made) - expected) < 0.1  # pixels
    assert made.sum() == pytest.approx(DIGIT.sum(dtype=float), rel=0.03)


def test_the_digit_is_in_every_image(whole: Source) -> None:
    for data in files(whole, "test").values():
        image = np.asarray(open_image(data))
        assert image.shape == (SIDE, SIDE)
        # Two pixels from the bar's edges, however it is turned.
        assert (image[13:15, 13:15] == 255).all()


def test_the_benchmark_imports_it_with_validation_images(tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    for prefix, count in (("train", NUM_TRAIN), ("t10k", NUM_TEST)):
        images = np.repeat(DIGIT[None], count, axis=0)
        for kind, array in (
            ("images-idx3", images),
            ("labels-idx1", (np.arange(count) % 10).astype(np.uint8)),
        ):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 0x08, array.ndim, *array.shape)
            data = gzip.compress(head + array.tobytes())
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(data)
    manifest = import_data("mnist_control_40", tmp_path, tmp_path, validation=True)
    train, validation, test = (
        manifest.class_counts(split, "class").tolist() for split in ("train", "validation", "test")
    )
    assert train == [10, 16] * 5
    assert validation == [2, 4] * 5
    assert test == [3] * 10
