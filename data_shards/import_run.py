"""Carries out an import plan: shards first, the manifest last, and nothing twice."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_shards.atomic import TEMPORARY_PREFIX, clear_leftovers, read_json, write_json
from data_shards.errors import DataError, named
from data_shards.import_plan import ImportOptions, ImportPlan, check_every_class, class_counts
from data_shards.index import sample_ids
from data_shards.manifest import IMPORT_NAME, MANIFEST_NAME, Manifest, ShardInfo, SplitInfo
from data_shards.progress import Progress
from data_shards.sample import Sample
from data_shards.sources.base import SourceItem
from data_shards.transforms import open_image
from data_shards.writer import finished_shard, noted_files, write_shard

_OTHER_SIZES = "some have other sizes"
_OTHER_TIMES = (
    "their sizes are the same, but not their times of modification (if they were only copied, use "
    "the import as it is; cp -a and rsync -a keep the times)"
)
_SHARD_FILE = re.compile(r"(train|test|validation)-\d{6}\.(tar|idx|labels\.npy|json)")
_logger = logging.getLogger(__name__)


def write_import(plan: ImportPlan, options: ImportOptions) -> Manifest:
    """Write the shards of a plan, but those that an earlier run has finished, then the manifest.

    Raises:
        DataError: when the folder holds something else, or this import finished with images that
            have changed since, or an image cannot be read and `options.on_error` is "stop".
    """
    fingerprint = plan.fingerprint()
    _claim_folder(options.out, plan, fingerprint)
    total = sum(map(len, plan.splits.values()))
    with Progress(total, label=f"import {plan.source}", unit="images") as progress:
        run = _Run(plan=plan, options=options, fingerprint=fingerprint, progress=progress)
        run.find_changed_shards()
        splits = {split: run.write_split(split) for split in plan.splits}
    check_every_class(run.imported["train"], plan.label_names)
    return Manifest(
        folder=options.out,
        source=plan.source,
        fingerprint=fingerprint,
        settings=plan.settings,
        label_columns=plan.label_columns,
        label_names=plan.label_names,
        splits={split: info for split, info in splits.items() if info.num_samples},
        skipped=(*plan.skipped, *run.skipped),
    ).write()


@dataclass(kw_only=True)
class _Run:
    """One run of an import and what it has found so far."""

    plan: ImportPlan
    options: ImportOptions
    fingerprint: str
    progress: Progress
    imported: dict[str, list[SourceItem]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    changed_shards: list[str] = field(default_factory=list)
    num_kept_shards: int = 0

    def find_changed_shards(self) -> None:
        """Find the shards of which image files have changed since; they are written again.

        Raises:
            DataError: when the import was finished: trainings may rely on it.
        """
        out, same_sizes = self.options.out, True
        for split in self.plan.splits:
            for name, chunk, first_id in self._chunks(split):
                noted, ids = noted_files(out, name)
                if noted and noted != (found := file_checksums(chunk, first_id, ids)):
                    self.changed_shards.append(name)
                    same_sizes &= noted.get("sizes") == found.get("sizes")
        if not self.changed_shards:
            return
        what = (
            f"{out} holds this import, but the image files of {named(self.changed_shards)} have "
            f"changed since: {_OTHER_TIMES if same_sizes else _OTHER_SIZES}"
        )
        if (out / MANIFEST_NAME).exists():
            raise DataError(
                f"{what}; choose another --out or remove the folder to import them as they are now"
            )
        _logger.warning("%s; these shards are written again", what)

    def write_split(self, split: str) -> SplitInfo:
        self.imported[split] = []
        shards = []
        for name, chunk, first_id in self._chunks(split):
            shard = self._finished_or_new(name, chunk, first_id)
            self._sort_out(shard, chunk, split, first_id)
            shards.append(shard)
        imported = self.imported[split]
        histograms = {
            column: tuple(class_counts(imported, column, len(names)).tolist())
            for column, names in self.plan.label_names.items()
        }
        return SplitInfo(len(imported), histograms, tuple(shards))

    def _chunks(self, split: str) -> Iterator[tuple[str, Sequence[SourceItem], int]]:
        """Name, images and first id of each shard."""
        items, size = self.plan.splits[split], self.options.samples_per_shard
        first_id = self.plan.first_id(split)
        for number, start in enumerate(range(0, len(items), size)):
            yield f"{split}-{number:06d}", items[start : start + size], first_id + start

    def _finished_or_new(self, name: str, chunk: Sequence[SourceItem], first_id: int) -> ShardInfo:
        out, fingerprint = self.options.out, self.fingerprint
        finished = None
        if name not in self.changed_shards:
            finished = finished_shard(out, name, fingerprint=fingerprint)
        # What lacks an image is written again: it may have been repaired.
        if finished is not None and finished.num_samples == len(chunk):
            self.num_kept_shards += 1
            self.progress.update(len(chunk), kept_shards=self.num_kept_shards)
            return finished
        return write_shard(
            out,
            name,
            self._samples(chunk, first_id),
            self.plan.label_columns,
            fingerprint=fingerprint,
            files=lambda ids: file_checksums(chunk, first_id, ids),
        )

    def _samples(self, chunk: Sequence[SourceItem], first_id: int) -> Iterator[Sample]:
        for sample_id, item in enumerate(chunk, start=first_id):
            try:
                image = item.load()
                open_image(image)
            except (DataError, OSError) as error:
                if self.options.on_error == "stop":
                    raise DataError(
                        f"{item.name}: {error}; repair or remove it and run the same command "
                        "again, or leave such images out with --on-error skip"
                    ) from error
                _logger.warning("skipped %s: %s", item.name, error)
            else:
                labels = {column: item.labels[column] for column in self.plan.label_columns}
                yield Sample(sample_id, image, item.extension, labels, item.name)
            self.progress.update()

    def _sort_out(
        self, shard: ShardInfo, chunk: Sequence[SourceItem], split: str, first_id: int
    ) -> None:
        """Note which images of a shard's part of the plan are in it."""
        present = set(sample_ids(self.options.out / shard.index_name))
        for sample_id, item in enumerate(chunk, start=first_id):
            if sample_id in present:
                self.imported[split].append(item)
            else:
                self.skipped.append(item.name)


def file_checksums(
    chunk: Sequence[SourceItem], first_id: int, ids: Iterable[int]
) -> dict[str, str]:
    """Return what tells, without reading it, that a file which images are read from has changed.

    Args:
        chunk: images of a shard's part of the plan, and
        first_id: the sample id of the first.
        ids: of those that are in the shard; others may be repaired.

    Returns:
        Checksums of the files' "sizes" and "times" of modification; empty if there are no files.
    """
    items = [chunk[number - first_id] for number in ids]
    files = dict.fromkeys(item.file for item in items if item.file is not None)
    if not files:
        return {}
    sizes, times = zip(*map(_size_and_time, files), strict=True)
    return {
        name: hashlib.sha256(json.dumps(values).encode("ascii")).hexdigest()
        for name, values in (("sizes", sizes), ("times", times))
    }


def _size_and_time(file: Path) -> tuple[int, int]:
    """In bytes and nanoseconds; -1 for what is not there: whoever reads it says so."""
    try:
        found = os.stat(file)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _claim_folder(out: Path, plan: ImportPlan, fingerprint: str) -> None:
    """Make `out` the folder of this import; an unfinished other import is started over.

    Raises:
        DataError: when it cannot be written, holds a finished other import or foreign files.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in out.iterdir()}
        is_ours = _is_ours(out, names, fingerprint)
        clear_leftovers(out)
        if not is_ours:
            for name in filter(_SHARD_FILE.fullmatch, names):
                (out / name).unlink()
            write_json(out / IMPORT_NAME, {"fingerprint": fingerprint, "source": plan.source})
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error.strerror}; choose another --out") from error


def _is_ours(out: Path, names: set[str], fingerprint: str) -> bool:
    """Tell whether `out` belongs to this import already; False when it may be taken.

    Raises:
        DataError: when it holds a finished other import or foreign files.
    """
    if IMPORT_NAME not in names:
        if any(not name.startswith(TEMPORARY_PREFIX) for name in names):
            raise DataError(f"{out} is not empty and holds no import; choose another --out")
        return False
    if read_json(out / IMPORT_NAME).get("fingerprint") == fingerprint:
        return True
    if MANIFEST_NAME in names:
        raise DataError(
            f"{out} holds another import (other images or settings than these); "
            "choose another --out or remove the folder"
        )
    _logger.warning("%s: an unfinished import of other images or settings is started over", out)
    return False
