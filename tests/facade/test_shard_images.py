from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import clmle
from data_shards.errors import DataError
from data_shards.images.transforms import encode_png
from data_shards.importer import main as run_import
from data_shards.shards.index import SampleIndex
from data_shards.shards.manifest import Manifest
from tests.facade.conftest import SHARDS


def test_images_labels_and_names_are_those_of_the_split(in_demo: Path) -> None:
    images = clmle.read_shards(SHARDS, "test", channels=1)
    index = SampleIndex(Manifest.load(SHARDS), "test")
    assert images.images.shape == (len(index), 8, 8, 1)
    assert images.images.dtype == np.uint8
    assert np.array_equal(images.labels, index.labels("digit"))
    assert images.names == tuple("0123456789")
    pixels, label = images[3]
    assert encode_png(pixels[:, :, 0]) == index.read(int(index.ids[3]))
    assert label == images.labels[3]
    assert [label for _, label in images] == images.labels.tolist()


def test_a_size_and_channels_may_be_asked_for(in_demo: Path) -> None:
    assert clmle.read_shards(SHARDS, size=16).images.shape[1:] == (16, 16, 3)


def test_images_of_different_sizes_are_no_array(tmp_path: Path) -> None:
    for grey, (name, sizes) in enumerate((("ann", (8, 9)), ("bo", (8, 8)))):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for number, size in enumerate(sizes):
            file = tmp_path / "faces" / name / f"{number}.png"
            file.write_bytes(encode_png(np.full((size, 8), 9 * grey + number, np.uint8)))
    out = str(tmp_path / "out")
    assert (
        run_import(["image-folder", str(tmp_path / "faces"), "--out", out, "--test-fraction", "0"])
        == 0
    )
    images = clmle.read_shards(out)
    assert {image.shape for image, _ in images} == {(8, 8, 3), (9, 8, 3)}
    with pytest.raises(DataError, match="give read_shards a size"):
        _ = images.images


def test_what_is_not_there_is_said(in_demo: Path) -> None:
    with pytest.raises(DataError, match="has no split 'val'"):
        clmle.read_shards(SHARDS, "val")
    with pytest.raises(DataError, match="no label column 'age'"):
        clmle.read_shards(SHARDS, label="age")
    with pytest.raises(DataError, match="is not a folder"):
        clmle.read_shards("nowhere")
