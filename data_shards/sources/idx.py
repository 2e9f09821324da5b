"""Folders of idx files, the format of MNIST, Fashion-MNIST and similar data sets."""

from __future__ import annotations

import gzip
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_shards.errors import DataError
from data_shards.images.transforms import encode_png
from data_shards.sources.base import Source, SourceItem

COLUMN = "class"
_PREFIXES = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTES = 0x08
_BLOCK_BYTES = 1 << 20


def read(folder: Path) -> Source:
    """List the images of `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...`.

    Each file may have the suffix .gz. The t10k files become the test split and may be absent.
    The label column is "class", its names are "0", "1", ...

    Raises:
        DataError: when a file is missing, truncated or of another type.
    """
    splits = {}
    for split, prefix in _PREFIXES.items():
        if split == "train" or _find(folder, f"{prefix}-images-idx3-ubyte") is not None:
            splits[split] = _read_split(folder, prefix)
    last = max(item.labels[COLUMN] for items in splits.values() for item in items)
    names = tuple(str(label) for label in range(last + 1))
    return Source("idx", splits, (COLUMN,), {COLUMN: names})


def read_array(path: Path, *, num_dimensions: int) -> npt.NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, gzipped or not.

    Args:
        path: the file.
        num_dimensions: how many the array must have.

    Returns:
        uint8 array of the shape given in the file.

    Raises:
        DataError: on another magic number, a wrong size or a broken gzip stream.
    """
    data = _read_bytes(path)
    header_bytes = 4 + 4 * num_dimensions
    if len(data) < header_bytes:
        raise DataError(
            f"{path} is truncated: got {len(data)} bytes of its {header_bytes}-byte header; "
            "download it again"
        )
    magic = int.from_bytes(data[:4], "big")
    expected_magic = _UNSIGNED_BYTES << 8 | num_dimensions
    if magic != expected_magic:
        raise DataError(
            f"{path} is not what its name says: got magic number 0x{magic:08x}, expected "
            f"0x{expected_magic:08x} (unsigned bytes in {num_dimensions} dimensions); "
            "download it again"
        )
    shape = tuple(np.frombuffer(data, dtype=">u4", count=num_dimensions, offset=4).tolist())
    expected = header_bytes + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        state = "truncated" if len(data) < expected else "too long"
        raise DataError(
            f"{path} is {state}: got {len(data):,} bytes, expected {expected:,} for shape {shape}; "
            "download it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header_bytes).reshape(shape)


def _read_split(folder: Path, prefix: str) -> list[SourceItem]:
    images_path = _need(folder, f"{prefix}-images-idx3-ubyte")
    labels_path = _need(folder, f"{prefix}-labels-idx1-ubyte")
    images = read_array(images_path, num_dimensions=3)
    labels = read_array(labels_path, num_dimensions=1)
    if len(images) != len(labels) or not len(images):
        raise DataError(
            f"expected as many images as labels, at least one, got {len(images):,} in "
            f"{images_path} and {len(labels):,} in {labels_path.name}; download both again"
        )
    return [
        SourceItem(
            f"{prefix}/{number:06d}",
            {COLUMN: label},
            partial(encode_png, image),
            "png",
            images_path,
        )
        for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True))
    ]


def _find(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _need(folder: Path, name: str) -> Path:
    path = _find(folder, name)
    if path is None:
        raise DataError(f"{folder} has no {name} (or {name}.gz); name a folder of idx files")
    return path


def _read_bytes(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    data = bytearray()
    try:
        with gzip.open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                data += block
    except EOFError:
        # Truncated: the caller reports how much is missing.
        return bytes(data)
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; download it again") from error
    return bytes(data)
