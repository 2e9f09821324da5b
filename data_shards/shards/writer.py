"""Writes image shards: a WebDataset tar, its index, its labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from webdataset import TarWriter

from data_shards.atomic import atomic_file, read_json, sha256_of, write_json
from data_shards.errors import DataError
from data_shards.shards.index import sample_ids, scan_tar, write_index
from data_shards.shards.manifest import ShardInfo
from data_shards.shards.record import record_from_json
from data_shards.shards.sample import Sample

_logger = logging.getLogger(__name__)


def write_shard(
    folder: Path | str,
    name: str,
    samples: Iterable[Sample],
    label_columns: Sequence[str],
    *,
    fingerprint: str = "",
    files: Callable[[Sequence[int]], Mapping[str, str]] = lambda ids: {},
) -> ShardInfo:
    """Write one shard. The same samples always give the same bytes.

    The shard's JSON entry is written last, so `finished_shard` recognises an interrupted one.

    Args:
        folder: where to write.
        name: name of the shard's files without suffix, such as "train-000000".
        samples: in ascending order of ids; consumed once, never all in memory.
        label_columns: the columns of the label file, in order; each sample has all of them.
        fingerprint: of what the shard is to hold; `finished_shard` and `noted_files` ask for it.
        files: ids of the samples that were written -> checksums, by name, that change when the
            files that these were read from do; `noted_files` returns them.

    Raises:
        DataError: when a sample lacks a label column or the ids do not ascend.
        DiskError: when the disk is full, or fails.
    """
    tar, index, labels_file, entry = _paths(Path(folder), name)
    entry.unlink(missing_ok=True)
    ids: list[int] = []
    rows: list[list[int]] = []
    with (
        atomic_file(tar, "the shard") as temporary,
        temporary.open("wb") as stream,
        # Fixed times and owners make the bytes a function of the samples alone.
        TarWriter(stream, user="clmle", group="clmle", mtime=0, encoder=False) as writer,
    ):
        for sample in _ascending(samples):
            writer.write(sample.to_members())
            ids.append(sample.id)
            rows.append(_label_row(sample, label_columns))
    with atomic_file(index) as temporary:
        write_index(temporary, scan_tar(tar))
    with atomic_file(labels_file) as temporary:
        labels = np.array(rows, dtype=np.int64).reshape(len(rows), len(label_columns))
        np.save(temporary, labels, allow_pickle=False)
    info = ShardInfo(
        name=name,
        num_samples=len(ids),
        first_id=ids[0] if ids else -1,
        last_id=ids[-1] if ids else -1,
        num_bytes=tar.stat().st_size,
        sha256=sha256_of(tar),
        index_sha256=sha256_of(index),
        labels_sha256=sha256_of(labels_file),
    )
    content = {"fingerprint": fingerprint, "files": dict(files(ids)), "shard": asdict(info)}
    write_json(entry, content)
    return info


def noted_files(
    folder: Path | str, name: str, *, fingerprint: str
) -> tuple[dict[str, str], list[int]]:
    """Return the `files` that a shard was written with and its sample ids; empty if not noted.

    Both are empty for a shard with another fingerprint.
    """
    _, index, _, entry = _paths(Path(folder), name)
    try:
        content, ids = read_json(entry), list(sample_ids(index))
    except (DataError, OSError):  # missing, or `finished_shard` reports what is wrong
        return {}, []
    files = content.get("files") if content.get("fingerprint") == fingerprint else None
    return (files, ids) if isinstance(files, dict) else ({}, [])


def finished_shard(folder: Path | str, name: str, *, fingerprint: str) -> ShardInfo | None:
    """Return a shard that `write_shard` finished with a fingerprint; None if there is none.

    Its checksums are compared; a damaged shard counts as missing.
    """
    tar, index, labels_file, entry = _paths(Path(folder), name)
    if not entry.exists():
        return None
    try:
        content = read_json(entry)
        info = record_from_json(ShardInfo, content.get("shard"))
        checksums = [sha256_of(path) for path in (tar, index, labels_file)]
    except (DataError, OSError) as error:
        _logger.warning("shard %s is written again: %s", name, error)
        return None
    expected = [info.sha256, info.index_sha256, info.labels_sha256]
    is_ours = content.get("fingerprint") == fingerprint and info.name == name
    return info if is_ours and checksums == expected else None


def _paths(folder: Path, name: str) -> tuple[Path, Path, Path, Path]:
    return (
        folder / f"{name}.tar",
        folder / f"{name}.idx",
        folder / f"{name}.labels.npy",
        folder / f"{name}.json",
    )


def _ascending(samples: Iterable[Sample]) -> Iterator[Sample]:
    last_id = -1
    for sample in samples:
        if sample.id <= last_id:
            raise DataError(f"sample ids must ascend from 0: {sample.id} follows {last_id}")
        last_id = sample.id
        yield sample


def _label_row(sample: Sample, label_columns: Sequence[str]) -> list[int]:
    missing = [column for column in label_columns if column not in sample.labels]
    if missing:
        raise DataError(
            f"sample {sample.id} ({sample.source}) has labels for "
            f"{', '.join(sample.labels)}, none for {', '.join(missing)}; give it one for each"
        )
    return [sample.labels[column] for column in label_columns]
