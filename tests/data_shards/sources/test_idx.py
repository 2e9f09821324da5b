from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from data_shards.errors import DataError
from data_shards.images.opening import open_image
from data_shards.sources import idx

IMAGES = np.random.default_rng(0).integers(0, 256, size=(6, 5, 4), dtype=np.uint8)
LABELS = np.array([2, 0, 1, 1, 2, 0], dtype=np.uint8)


def encoded(array: np.ndarray) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 0x08, array.ndim, *array.shape)
    return head + array.tobytes()


def write(folder: Path, prefix: str, *, zipped: bool) -> None:
    for kind, array in (("images-idx3-ubyte", IMAGES), ("labels-idx1-ubyte", LABELS)):
        data = encoded(array)
        name = f"{prefix}-{kind}"
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


@pytest.mark.parametrize("zipped", [False, True])
def test_images_and_labels_come_in_order(tmp_path: Path, zipped: bool) -> None:
    write(tmp_path, "train", zipped=zipped)
    write(tmp_path, "t10k", zipped=zipped)
    source = idx.read(tmp_path)
    assert set(source.splits) == {"train", "test"}
    assert source.label_names == {"class": ("0", "1", "2")}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        items = source.splits[split]
        assert [item.labels["class"] for item in items] == LABELS.tolist()
        assert items[3].name == f"{prefix}/000003"
        for item, image in zip(items, IMAGES, strict=True):
            assert item.extension == "png"
            assert item.file == tmp_path / f"{prefix}-images-idx3-ubyte{'.gz' * zipped}"
            np.testing.assert_array_equal(np.asarray(open_image(item.load())), image)


def test_the_test_files_may_be_absent(tmp_path: Path) -> None:
    write(tmp_path, "train", zipped=True)
    assert list(idx.read(tmp_path).splits) == ["train"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no train-images-idx3-ubyte \(or .*\.gz\)"):
        idx.read(tmp_path)
    write(tmp_path, "train", zipped=False)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no train-labels-idx1-ubyte"):
        idx.read(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_truncated_file_says_what_is_missing(tmp_path: Path, zipped: bool) -> None:
    data = encoded(IMAGES)
    path = tmp_path / ("a.gz" if zipped else "a")
    path.write_bytes(gzip.compress(data[:100]) if zipped else data[:100])
    with pytest.raises(DataError, match="is truncated: got 100 bytes, expected 136"):
        idx.read_array(path, num_dimensions=3)
    path.write_bytes(gzip.compress(data)[:-20] if zipped else data[:10])
    with pytest.raises(DataError, match=r"is truncated: got \d+ bytes"):
        idx.read_array(path, num_dimensions=3)


def test_a_file_too_long_or_of_another_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded(IMAGES) + b"more")
    with pytest.raises(DataError, match="is too long: got 140 bytes, expected 136"):
        idx.read_array(path, num_dimensions=3)
    with pytest.raises(DataError, match="got magic number 0x00000803, expected 0x00000801"):
        idx.read_array(path, num_dimensions=1)


def test_a_broken_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(b"not gzip at all")
    with pytest.raises(DataError, match=r"a\.gz is damaged: Not a gzipped file"):
        idx.read_array(path, num_dimensions=3)


def test_as_many_labels_as_images(tmp_path: Path) -> None:
    write(tmp_path, "train", zipped=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(encoded(LABELS[:4]))
    with pytest.raises(DataError, match=r"got 6 in .* and 4 in train-labels-idx1-ubyte"):
        idx.read(tmp_path)
