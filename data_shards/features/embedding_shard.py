"""One shard of embeddings: three files of arrays and an entry that says they are complete.

Legend: n rows of a shard, D embedding.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_shards.atomic import atomic_file, read_json, sha256_of, write_json
from data_shards.errors import DataError
from data_shards.shards.record import check_file, record_from_json

REMEDY = "embed again"
DIVERGED = (
    "did the training diverge? Start again from an earlier checkpoint, in a new run.folder, with a "
    "lower optim.learning_rate"
)
"""What to do about embeddings that are not finite."""


@dataclass(frozen=True)
class EmbeddingShardInfo:
    """One shard of embeddings and the checksums of its three files."""

    name: str
    num_rows: int
    dim: int
    origin: str
    """Identifies what the embeddings were made of: weights, data and settings."""
    num_bytes: int
    """Size of the file of vectors."""
    sha256: str
    """Checksum of the file of vectors."""
    ids_sha256: str
    labels_sha256: str


def write_embedding_shard(
    folder: Path | str,
    name: str,
    *,
    embeddings: npt.NDArray[np.float32],
    ids: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    origin: str,
) -> EmbeddingShardInfo:
    """Write one shard, its JSON entry last: a killed writer leaves none that looks finished.

    Args:
        folder: where to write; created if missing.
        name: name of the shard's files, without suffix.
        embeddings: (n, D) float32, finite; n may be 0.
        ids: (n,) int64, sample ids.
        labels: (n,) int64, class ids.
        origin: identifies what the embeddings were made of: weights, data and settings.

    Raises:
        DataError: on wrong shapes or types, or a vector that is not finite (names the sample).
    """
    _check_arrays(name, embeddings, ids, labels)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vectors, ids_file, labels_file, entry = _paths(folder, name)
    entry.unlink(missing_ok=True)
    for path, array in ((vectors, embeddings), (ids_file, ids), (labels_file, labels)):
        # Flushed despite their checksums, which evaluations do not compare.
        with atomic_file(path, flush_name=False) as temporary:
            np.save(temporary, np.ascontiguousarray(array), allow_pickle=False)
    info = EmbeddingShardInfo(
        name=name,
        num_rows=len(ids),
        dim=embeddings.shape[1],
        origin=origin,
        num_bytes=vectors.stat().st_size,
        sha256=sha256_of(vectors),
        ids_sha256=sha256_of(ids_file),
        labels_sha256=sha256_of(labels_file),
    )
    write_json(entry, asdict(info))
    return info


def finished_shard(folder: Path | str, name: str, origin: str) -> EmbeddingShardInfo | None:
    """Return a shard that is complete, undamaged and of the same origin; otherwise None."""
    entry = _paths(Path(folder), name)[-1]
    if not entry.exists():
        return None
    try:
        info = record_from_json(EmbeddingShardInfo, read_json(entry))
        check_shard(Path(folder), info, verify=True)
    except DataError:
        return None
    return info if info.name == name and info.origin == origin else None


def check_vectors(folder: Path | str, shard: EmbeddingShardInfo) -> None:
    """Compare a shard's file of vectors with its checksum.

    Raises:
        DataError: when it is missing, unreadable or differs.
    """
    vectors = vectors_path(Path(folder), shard)
    check_file(vectors, num_bytes=shard.num_bytes, sha256=shard.sha256, remedy=REMEDY)


def vectors_path(folder: Path, shard: EmbeddingShardInfo) -> Path:
    """The file of a shard's vectors."""
    return _paths(folder, shard.name)[0]


def _paths(folder: Path, name: str) -> tuple[Path, Path, Path, Path]:
    suffixes = ("npy", "ids.npy", "labels.npy", "json")
    vectors, ids, labels, entry = (folder / f"{name}.{suffix}" for suffix in suffixes)
    return vectors, ids, labels, entry


def _check_arrays(
    name: str,
    embeddings: npt.NDArray[np.float32],
    ids: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
) -> None:
    expected: list[tuple[npt.NDArray[Any], Any, int]] = [
        (embeddings, np.float32, 2),
        (ids, np.int64, 1),
        (labels, np.int64, 1),
    ]
    got = ", ".join(f"{array.dtype}{array.shape}" for array, _, _ in expected)
    fits = all(array.dtype == dtype and array.ndim == ndim for array, dtype, ndim in expected)
    if not fits or not len(embeddings) == len(ids) == len(labels):
        raise DataError(
            f"embedding shard {name}: expected float32(n, D), int64(n,), int64(n,), got {got}"
        )
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise DataError(
            f"embedding shard {name}: the embedding of sample {ids[np.argmin(finite)]} is not "
            f"finite, nor are {np.count_nonzero(~finite) - 1} others; {DIVERGED}"
        )


def check_shard(
    folder: Path, shard: EmbeddingShardInfo, *, verify: bool, verify_vectors: bool = True
) -> None:
    """Check that a shard's files are there and in full.

    Args:
        folder: that holds them.
        shard: the shard's entry in the manifest.
        verify: compare checksums too, not only the size of the vectors' file.
        verify_vectors: False to leave out the checksum of the vectors, which are nearly all of the
            bytes.

    Raises:
        DataError: naming the first file that is missing, unreadable or damaged.
    """
    vectors, ids, labels, _ = _paths(folder, shard.name)
    check_file(vectors, num_bytes=shard.num_bytes, remedy=REMEDY)
    if verify and verify_vectors:
        check_vectors(folder, shard)
    if verify:
        check_file(ids, sha256=shard.ids_sha256, remedy=REMEDY)
        check_file(labels, sha256=shard.labels_sha256, remedy=REMEDY)


def load_array(
    path: Path, shape: tuple[int, ...], dtype: type[np.generic], *, mapped: bool = False
) -> npt.NDArray[Any]:
    """Load a NumPy file of a known shape and dtype.

    Args:
        path: the file.
        shape: the shape that it must have.
        dtype: the dtype that it must have.
        mapped: map it into memory, read-only, instead of reading it.

    Raises:
        DataError: when it cannot be read, or holds another shape or dtype.
    """
    try:
        array: npt.NDArray[Any] = np.load(
            path, mmap_mode="r" if mapped else None, allow_pickle=False
        )
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}; {REMEDY}") from error
    if array.shape != shape or array.dtype != dtype:
        raise DataError(
            f"{path} holds {array.dtype}{array.shape}, expected {np.dtype(dtype)}{shape}; {REMEDY}"
        )
    return array
