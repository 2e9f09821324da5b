"""Random access to the samples of a split.

The index of a tar has the layout of NVIDIA DALI's wds2idx: a line `v1.2 N`, then a line per sample
with `extension offset size name` for each of its members; offsets are those of the data.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_shards.errors import DataError
from data_shards.shards.manifest import REMEDY, Manifest, ShardInfo
from data_shards.shards.record import check_file
from data_shards.shards.sample import LABEL_EXTENSION

INDEX_VERSION = "v1.2"
_MAX_OPEN_TARS = 256


class Member(NamedTuple):
    """A file inside a tar."""

    extension: str
    offset: int
    """Where its data begin in the tar, in bytes."""
    size: int
    name: str


def scan_tar(path: Path) -> list[list[Member]]:
    """Return the members of each sample of a tar, in the order of the tar."""
    samples: list[list[Member]] = []
    last_key = None
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            key, _, extension = info.name.partition(".")
            if key != last_key:
                samples.append([])
                last_key = key
            samples[-1].append(Member(extension, info.offset_data, info.size, info.name))
    return samples


def write_index(path: Path, samples: list[list[Member]]) -> None:
    """Write the index of a tar, not atomically: the caller passes a temporary name."""
    lines = [f"{INDEX_VERSION} {len(samples)}"]
    lines += [" ".join(" ".join(map(str, member)) for member in sample) for sample in samples]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def read_index(path: Path) -> list[list[Member]]:
    """Read the index of a tar.

    Raises:
        DataError: when the file is not an index.
    """
    try:
        header, *lines = path.read_text(encoding="ascii").splitlines()
        version, num_samples = header.split()
        samples = [_read_line(line) for line in lines]
        if version != INDEX_VERSION or int(num_samples) != len(samples):
            raise ValueError(f"header {header!r} above {len(samples)} lines")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the index {path}: {error}; import again") from error
    return samples


def sample_ids(path: Path) -> list[int]:
    """Return the ids of the samples that an index lists.

    Raises:
        DataError: when the file is not an index.
    """
    return [int(sample[0].name.partition(".")[0]) for sample in read_index(path)]


class SampleIndex:
    """Finds the image of a sample id.

    Any number of threads may read at once, also in forked processes: a read moves no shared file
    position.
    """

    def __init__(self, manifest: Manifest, split: str) -> None:
        """Read the indexes and labels of a split and check them against their checksums.

        Raises:
            DataError: naming the file that is missing, truncated or changed.
        """
        self._num_columns = len(manifest.label_columns)
        self._shards = manifest.split(split).shards
        self._folder = manifest.folder
        self._what = f"split {split!r} of {manifest.folder}"
        tables = [self._load_shard(number) for number in range(len(self._shards))]
        table = np.concatenate([table for table, _ in tables])
        self.ids: npt.NDArray[np.int64] = np.ascontiguousarray(table[:, 0])
        """(N,) int64, ascending; a skipped image leaves a hole."""
        if (np.diff(self.ids) <= 0).any():
            raise DataError(f"the sample ids of {self._what} do not ascend; import again")
        self._places = table[:, 1:]
        labels = np.concatenate([labels for _, labels in tables])
        self._labels = {
            column: np.ascontiguousarray(labels[:, manifest.column_number(column)])
            for column in manifest.label_columns
        }
        self._has_holes = len(self.ids) != self.ids[-1] - self.ids[0] + 1 if len(table) else False
        # Not a method of this index: in a reference cycle with it, the tars would stay open until
        # Python collects garbage.
        opened = partial(_opened, self._folder, self._shards)
        self._open_tar = lru_cache(maxsize=_MAX_OPEN_TARS)(opened)

    def __len__(self) -> int:
        return len(self.ids)

    def labels(self, column: str) -> npt.NDArray[np.int64]:
        """Return the class of each sample, in the order of `ids`: (N,) int64, not to be changed.

        It is the same array each time, so that results can be cached by its identity.

        Raises:
            DataError: when there is no such label column.
        """
        if column not in self._labels:
            known = ", ".join(self._labels)
            raise DataError(
                f"{self._what} has no label column {column!r}; name one that it has: {known}"
            )
        return self._labels[column]

    def read(self, sample_id: int) -> bytes:
        """Return the image file of a sample.

        Raises:
            DataError: when there is no such sample, or its tar cannot be read or is truncated.
        """
        shard, offset, size = self._places[self._row(int(sample_id))].tolist()
        try:
            data = self._open_tar(shard).read(size, offset)
        except OSError as error:
            self.close()  # on a network file system, reopening the file may help
            raise DataError(
                f"cannot read {self._folder / self._shards[shard].tar_name}: {error.strerror}; "
                f"make it readable again, or {REMEDY}"
            ) from error
        if len(data) != size:
            raise DataError(
                f"{self._folder / self._shards[shard].tar_name} is truncated: got {len(data)} "
                f"bytes of sample {sample_id}, expected {size}; {REMEDY}"
            )
        return data

    def close(self) -> None:
        """Close the tars; a later `read` reopens them."""
        self._open_tar.cache_clear()

    def _row(self, sample_id: int) -> int:
        if self._has_holes:
            row = int(np.searchsorted(self.ids, sample_id))
        else:
            row = sample_id - int(self.ids[0]) if len(self.ids) else 0
        if not 0 <= row < len(self.ids) or self.ids[row] != sample_id:
            raise DataError(
                f"{self._what} has no sample {sample_id}; what names it was made from other "
                "shards: make that again, or use those"
            )
        return row

    def _load_shard(self, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return (n, 4) id, shard, offset, size and (n, T) labels of one shard."""
        shard = self._shards[number]
        table = _image_places(self._folder, shard, number)
        path = self._folder / shard.labels_name
        check_file(path, sha256=shard.labels_sha256, remedy=REMEDY)
        labels: npt.NDArray[np.int64] = np.load(path, allow_pickle=False)
        expected = (shard.num_samples, self._num_columns)
        if labels.shape != expected or len(table) != shard.num_samples:
            raise DataError(
                f"shard {shard.name} of {self._folder} is inconsistent: {len(table)} "
                f"samples indexed, labels {labels.shape}, expected {expected}; import again"
            )
        return table, labels


class _OpenTar:
    """A tar open for reading; closed when the last reference to it is gone."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, size: int, offset: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def _opened(folder: Path, shards: Sequence[ShardInfo], number: int) -> _OpenTar:
    return _OpenTar(folder / shards[number].tar_name)


def _read_line(line: str) -> list[Member]:
    words = line.split(" ")
    if not words or len(words) % 4:
        raise ValueError(f"line {line!r}")
    return [
        Member(words[at], int(words[at + 1]), int(words[at + 2]), words[at + 3])
        for at in range(0, len(words), 4)
    ]


def _image_places(folder: Path, shard: ShardInfo, number: int) -> npt.NDArray[np.int64]:
    path = folder / shard.index_name
    check_file(path, sha256=shard.index_sha256, remedy=REMEDY)
    rows = [
        (int(member.name.partition(".")[0]), number, member.offset, member.size)
        for sample in read_index(path)
        for member in sample
        if member.extension != LABEL_EXTENSION
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)
