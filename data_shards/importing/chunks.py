"""The images planned for one shard, and the checksums that tell whether a shard holds them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_shards.importing.plan import ImportPlan
from data_shards.shards.manifest import FORMAT
from data_shards.sources.base import SourceItem


@dataclass(frozen=True)
class Chunk:
    """The images planned for one shard."""

    name: str
    """Of the shard."""
    items: Sequence[SourceItem]
    first_id: int
    """Sample id of the first; the others follow."""
    fingerprint: str
    """Same ids, image names and labels <=> same fingerprint, in whatever import: a shard that an
    import of a little less or more has finished may serve this one too."""

    def numbered(self) -> Iterator[tuple[int, SourceItem]]:
        """Each image behind its sample id."""
        return enumerate(self.items, start=self.first_id)

    def file_checksums(self, ids: Iterable[int]) -> dict[str, str]:
        """Return checksums that change when the files of images do; reads no file.

        Args:
            ids: of the images that are in the shard; others may be repaired.

        Returns:
            Checksums of the files' "sizes" and modification "times"; empty if there are no files.
        """
        items = [self.items[number - self.first_id] for number in ids]
        files = dict.fromkeys(item.file for item in items if item.file is not None)
        if not files:
            return {}
        sizes, times = zip(*map(_size_and_time, files), strict=True)
        return {"sizes": _checksum(sizes), "times": _checksum(times)}


def chunks_of(plan: ImportPlan, split: str, samples_per_shard: int) -> list[Chunk]:
    """Divide the images of a split into shards, in order."""
    items, first_id = plan.splits[split], plan.first_id(split)
    chunks = []
    for number, start in enumerate(range(0, len(items), samples_per_shard)):
        part = items[start : start + samples_per_shard]
        described = [
            (item.name, item.extension, [item.labels[column] for column in plan.label_columns])
            for item in part
        ]
        head = [FORMAT, plan.source, plan.label_columns, first_id + start]
        fingerprint = _checksum([*head, described])
        chunks.append(Chunk(f"{split}-{number:06d}", part, first_id + start, fingerprint))
    return chunks


def _checksum(content: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()


def _size_and_time(file: Path) -> tuple[int, int]:
    """In bytes and nanoseconds; -1 for a missing file, which is reported when it is read."""
    try:
        found = os.stat(file)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns
