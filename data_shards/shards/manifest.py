"""What a folder of image shards holds: splits, labels, counts and checksums.

DIR/manifest.json           written last: without it the folder is not read
DIR/import.json             written first: identifies the import
DIR/import.lock             held by the import that is running
DIR/train-000000.tar        WebDataset shard, see sample.py
DIR/train-000000.idx        offset of each member in the tar, see index.py
DIR/train-000000.labels.npy (n, T) int64, a row per sample, a column per label column
DIR/train-000000.json       the shard's own entry of the manifest
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_shards.atomic import read_json, sha256_of, write_json
from data_shards.errors import DataError
from data_shards.shards.record import check_file, record_from_json
from data_shards.streams import without_surrogates

MANIFEST_NAME = "manifest.json"
IMPORT_NAME = "import.json"
LOCK_NAME = "import.lock"
FORMAT = "clmle-image-shards-1"
REMEDY = "import again"


@dataclass(frozen=True)
class ShardInfo:
    """One shard: how much it holds and the checksums of its three files."""

    name: str
    """File name without suffix, such as "train-000000"."""
    num_samples: int
    first_id: int
    """Smallest sample id; -1 in a shard without samples."""
    last_id: int
    num_bytes: int
    """Size of the tar."""
    sha256: str
    """Checksum of the tar."""
    index_sha256: str
    labels_sha256: str

    @property
    def tar_name(self) -> str:
        """File name of the tar."""
        return f"{self.name}.tar"

    @property
    def index_name(self) -> str:
        """File name of the index."""
        return f"{self.name}.idx"

    @property
    def labels_name(self) -> str:
        """File name of the labels."""
        return f"{self.name}.labels.npy"


@dataclass(frozen=True)
class SplitInfo:
    """One split, such as "train"."""

    num_samples: int
    histograms: Mapping[str, tuple[int, ...]]
    """Label column -> number of samples of each class."""
    shards: tuple[ShardInfo, ...]
    """In the order of their ids."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The table of contents of a folder of image shards."""

    folder: Path
    source: str
    """What was imported, such as "digits"."""
    fingerprint: str
    """Same source, image names, labels and settings <=> same fingerprint."""
    settings: Mapping[str, Any]
    """The settings of the import."""
    label_columns: tuple[str, ...]
    label_names: Mapping[str, tuple[str, ...]]
    """Label column -> name of each class."""
    splits: Mapping[str, SplitInfo]
    skipped: tuple[str, ...] = ()
    """Names of the images that were left out: unreadable, without labels, or dropped copies."""
    checksum: str = ""
    """SHA-256 of the manifest's file; empty before `write`."""

    @classmethod
    def load(cls, folder: Path | str, *, split: str | None = None) -> Manifest:
        """Read a folder's manifest and check that its shards exist and have their full size.

        Args:
            folder: that `clmle import` wrote.
            split: the only one whose shards are needed; None for all.

        Raises:
            DataError: when the folder holds no finished import, or no such split, or a file is
                missing or truncated.
        """
        manifest = cls.read(folder)
        needed = manifest.splits.values() if split is None else [manifest.split(split)]
        for found in needed:
            for shard in found.shards:
                _check_sizes(manifest.folder, shard)
        return manifest

    @classmethod
    def read(cls, folder: Path | str) -> Manifest:
        """Read a folder's manifest without looking at its shards.

        Raises:
            DataError: when the folder holds no finished import, or the manifest is damaged.
        """
        folder = Path(folder).absolute()
        path = folder / MANIFEST_NAME
        if not path.exists():
            raise DataError(_why_no_manifest(folder))
        content = read_json(path)
        if content.get("format") != FORMAT:
            raise DataError(
                f"{path}: expected format {FORMAT!r}, got {content.get('format')!r}; import again"
            )
        try:
            return cls(folder=folder, checksum=sha256_of(path), **_parse(content))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error}); import again") from error

    def write(self) -> Manifest:
        """Write `manifest.json`, which makes the folder readable, and return it as loaded."""
        content = {
            "format": FORMAT,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "settings": dict(self.settings),
            "label_columns": self.label_columns,
            "label_names": dict(self.label_names),
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "skipped": self.skipped,
        }
        write_json(self.folder / MANIFEST_NAME, content)
        return Manifest.load(self.folder)

    def split(self, name: str) -> SplitInfo:
        """Return a split.

        Raises:
            DataError: when there is none with that name.
        """
        if name not in self.splits:
            raise DataError(
                f"{self.folder} has no split {name!r}; name one that it has: "
                f"{', '.join(self.splits)}"
            )
        return self.splits[name]

    def column_number(self, column: str) -> int:
        """Return the position of a label column in the rows of the label files.

        Raises:
            DataError: when there is none with that name.
        """
        if column not in self.label_columns:
            raise DataError(
                f"{self.folder} has no label column {column!r}; "
                f"name one that it has: {', '.join(self.label_columns)}"
            )
        return self.label_columns.index(column)

    def num_classes(self, column: str) -> int:
        """Return the number of classes of a label column; their ids are 0 .. this - 1."""
        self.column_number(column)
        return len(self.label_names[column])

    def class_counts(self, split: str, column: str) -> npt.NDArray[np.int64]:
        """Return the number of samples of each class: (C,) int64."""
        self.column_number(column)
        return np.array(self.split(split).histograms[column], dtype=np.int64)


def verify_shard(manifest: Manifest, shard: ShardInfo) -> None:
    """Compare a shard's files with their checksums.

    Raises:
        DataError: naming the first file that is missing, truncated or changed.
    """
    folder = manifest.folder
    tar = folder / shard.tar_name
    check_file(tar, num_bytes=shard.num_bytes, sha256=shard.sha256, remedy=REMEDY)
    check_file(folder / shard.index_name, sha256=shard.index_sha256, remedy=REMEDY)
    check_file(folder / shard.labels_name, sha256=shard.labels_sha256, remedy=REMEDY)


def _why_no_manifest(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder; make it with `clmle import SOURCE --out {folder}`"
    if (folder / IMPORT_NAME).exists():
        return (
            f"the import into {folder} has not finished (it has no {MANIFEST_NAME}); "
            "run the same `clmle import` command again, it continues where it stopped"
        )
    return (
        f"{folder} holds no imported images (it has no {MANIFEST_NAME}); "
        f"fill an empty folder with `clmle import SOURCE --out DIR`"
    )


def _parse(content: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the JSON of a manifest into the fields of `Manifest`."""
    columns = tuple(content["label_columns"])
    # Imports of an earlier release may hold names that no stream takes.
    names = {c: tuple(map(without_surrogates, content["label_names"][c])) for c in columns}
    return {
        "source": content["source"],
        "fingerprint": content["fingerprint"],
        "settings": content["settings"],
        "label_columns": columns,
        "label_names": names,
        "splits": {
            name: _parse_split(content["splits"][name], names)
            for name in sorted(content["splits"], key=lambda name: (name != "train", name))
        },
        "skipped": tuple(content["skipped"]),
    }


def _parse_split(split: Mapping[str, Any], names: Mapping[str, tuple[str, ...]]) -> SplitInfo:
    histograms = {column: tuple(map(int, split["histograms"][column])) for column in names}
    info = SplitInfo(
        num_samples=int(split["num_samples"]),
        histograms=histograms,
        shards=tuple(record_from_json(ShardInfo, entry) for entry in split["shards"]),
    )
    if not info.shards:
        raise ValueError("a split has no shard")
    in_shards = sum(shard.num_samples for shard in info.shards)
    totals = {in_shards, *(sum(histogram) for histogram in histograms.values())}
    if totals != {info.num_samples}:
        raise ValueError(f"counts differ: {info.num_samples} samples, but sums of {sorted(totals)}")
    for column, histogram in histograms.items():
        if len(histogram) != len(names[column]):
            raise ValueError(f"{column}: {len(names[column])} names, {len(histogram)} counts")
    return info


def _check_sizes(folder: Path, shard: ShardInfo) -> None:
    check_file(folder / shard.tar_name, num_bytes=shard.num_bytes, remedy=REMEDY)
    check_file(folder / shard.index_name, remedy=REMEDY)
    check_file(folder / shard.labels_name, remedy=REMEDY)
