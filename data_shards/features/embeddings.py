"""The embedding shards of one task as one table: vectors, sample ids, classes.

    DIR/manifest.json           written last: without it the folder is not read
    DIR/shard-000000.npy        (n, D) float32
    DIR/shard-000000.ids.npy    (n,) int64
    DIR/shard-000000.labels.npy (n,) int64
    DIR/shard-000000.json       the shard's own entry of the manifest

Legend: n rows of a shard, N rows in all, D embedding, P rows asked for.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_shards.atomic import read_json, write_json
from data_shards.errors import DataError
from data_shards.features.embedding_shard import (
    REMEDY,
    EmbeddingShardInfo,
    check_shard,
    load_array,
    vectors_path,
)
from data_shards.features.gather import gather_from
from data_shards.progress import OnStep, no_step
from data_shards.shards.record import check_file, record_from_json

MANIFEST_NAME = "manifest.json"
FORMAT = "clmle-embedding-shards-1"
_MOST_MAPPED = 16_384  # shards at a time: a quarter of the maps that Linux grants a process


def begin_embeddings(folder: Path | str, origin: str) -> None:
    """Remove the manifest of another origin, whose shards are about to be replaced."""
    path = Path(folder) / MANIFEST_NAME
    with suppress(DataError):
        if _read_manifest(path)[1] == origin:
            return
    path.unlink(missing_ok=True)


def finish_embeddings(folder: Path | str, infos: Sequence[EmbeddingShardInfo], origin: str) -> None:
    """Write the manifest of the shards, which makes the folder readable.

    Raises:
        DataError: when there is no shard, or the shards differ in origin or dimension.
    """
    if not infos:
        raise DataError(f"there is no embedding shard to finish in {folder}; {REMEDY}")
    for info in infos:
        if info.origin != origin or info.dim != infos[0].dim:
            raise DataError(
                f"embedding shard {info.name} in {folder} does not belong here: got dimension "
                f"{info.dim} and origin {info.origin!r}, expected {infos[0].dim} and {origin!r}; "
                f"{REMEDY}"
            )
    content = {"format": FORMAT, "origin": origin, "shards": [asdict(info) for info in infos]}
    write_json(Path(folder) / MANIFEST_NAME, content)


class EmbeddingShards:
    """The embeddings of a folder as one long table whose vectors stay on the disk.

    A shard is mapped into memory when one of its rows is first read.

    Attributes:
        folder: that holds them.
        shards: the shards, in the order of their rows.
        origin: identifies what the embeddings were made of: weights, data and settings.
        dim: D.
        num_rows: N, the number of embeddings.
    """

    def __init__(self, folder: Path, shards: Sequence[EmbeddingShardInfo], origin: str) -> None:
        self.folder = folder
        self.shards = tuple(shards)
        self.origin = origin
        self.dim = self.shards[0].dim
        self._starts = np.cumsum([0, *(shard.num_rows for shard in self.shards)])
        self.num_rows = int(self._starts[-1])
        self._mapped = lru_cache(_most_mapped())(partial(_map_vectors, folder))

    @classmethod
    def open(
        cls,
        folder: Path | str,
        verify: bool = True,
        *,
        verify_vectors: bool = True,
        on_step: OnStep = no_step,
    ) -> EmbeddingShards:
        """Open a folder that `finish_embeddings` completed, and read its ids and labels.

        Args:
            folder: the folder.
            verify: compare checksums, and check that no sample id occurs twice.
            verify_vectors: compare the checksums of the vectors too; False if another process does
                it, since they are nearly all of the bytes.
            on_step: called after each shard.

        Raises:
            DataError: when the folder is not complete or a file is damaged (named).
        """
        folder = Path(folder)
        opened = cls(folder, *_read_manifest(folder / MANIFEST_NAME))
        for shard in opened.shards:
            check_shard(folder, shard, verify=verify, verify_vectors=verify_vectors)
            on_step()
        # Read now: a damaged file should show here, not in the middle of an evaluation.
        _ = opened.ids, opened.labels
        if verify:
            _check_unique(opened)
        return opened

    @classmethod
    def open_checked(cls, folder: Path | str) -> EmbeddingShards:
        """Open a folder that was checked before: for the many small calls that Ray runs.

        Only the manifest is read, once per process while it stays the same. A file that has gone
        missing or been damaged since then is reported when it is read.

        Raises:
            DataError: when the folder is not complete, or cannot be read.
        """
        path = Path(folder) / MANIFEST_NAME
        return cls(path.parent, *_known_manifest(path, _stamp(path)))

    @cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """(N,) int64, sample ids, each once; read on first use.

        Raises:
            DataError: naming the file that cannot be read.
        """
        return self._concatenate("ids.npy")

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) int64, class ids; read on first use.

        Raises:
            DataError: naming the file that cannot be read.
        """
        return self._concatenate("labels.npy")

    def rows(self, positions: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Gather vectors.

        Args:
            positions: (P,) int, row numbers 0 .. N - 1 in any order.

        Returns:
            (P, D) float32, a new array in the order of `positions`.

        Raises:
            DataError: when a position is out of range, or naming the file that cannot be read.
        """
        positions = np.asarray(positions)
        if len(positions) and not 0 <= positions.min() <= positions.max() < self.num_rows:
            raise DataError(
                f"positions must lie in 0..{self.num_rows - 1}, "
                f"got {positions.min()}..{positions.max()}"
            )
        return gather_from(self._part, self._starts, positions, self.dim)

    def _part(self, number: int) -> npt.NDArray[np.float32]:
        return self._mapped(self.shards[number])

    def _concatenate(self, suffix: str) -> npt.NDArray[np.int64]:
        parts = [
            load_array(self.folder / f"{shard.name}.{suffix}", (shard.num_rows,), np.int64)
            for shard in self.shards
        ]
        return np.concatenate(parts)


def _read_manifest(path: Path) -> tuple[tuple[EmbeddingShardInfo, ...], str]:
    """The shards of a folder and their origin."""
    if not path.exists():
        raise _unfinished(path)
    content = read_json(path)
    if content.get("format") != FORMAT or not content.get("shards"):
        raise DataError(f"{path} is not a manifest of {FORMAT}; {REMEDY}")
    try:
        shards = tuple(record_from_json(EmbeddingShardInfo, entry) for entry in content["shards"])
    except (DataError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); {REMEDY}") from error
    return shards, str(content.get("origin", ""))


@lru_cache(maxsize=1)  # of the manifest alone: files kept open would outlive a removed folder
def _known_manifest(
    path: Path, stamp: tuple[int, int, int]
) -> tuple[tuple[EmbeddingShardInfo, ...], str]:
    """`_read_manifest`, cached as long as the stamp stays the same."""
    return _read_manifest(path)


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a manifest is written again."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise _unfinished(path) from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; {REMEDY}") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _unfinished(path: Path) -> DataError:
    return DataError(
        f"{path.parent} holds no finished embeddings (it has no {MANIFEST_NAME}); {REMEDY}"
    )


def _check_unique(embeddings: EmbeddingShards) -> None:
    ids = embeddings.ids
    if not np.all(ids[1:] > ids[:-1]):  # already sorted, as those of an import are
        ids = np.sort(ids)
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        sample = ids[twice[0]]
        raise DataError(
            f"{embeddings.folder} holds sample {sample} {np.count_nonzero(ids == sample)} times, "
            f"expected each sample once; {REMEDY}"
        )


def _most_mapped() -> int:
    """Shards mapped at a time: each keeps a file open, and the process needs others too."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_MAPPED if files == resource.RLIM_INFINITY else min(files // 2, _MOST_MAPPED)


def _map_vectors(folder: Path, shard: EmbeddingShardInfo) -> npt.NDArray[np.float32]:
    path = vectors_path(folder, shard)
    check_file(path, num_bytes=shard.num_bytes, remedy=REMEDY)
    return load_array(path, (shard.num_rows, shard.dim), np.float32, mapped=True)
