"""Carries out an import plan: shards first, the manifest last; finished shards are kept."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from data_shards.atomic import TEMPORARY_PREFIX, clear_leftovers, read_json, write_json
from data_shards.disk import is_writable
from data_shards.errors import DataError, named
from data_shards.folder_lock import FolderLock
from data_shards.importing.chunks import Chunk, chunks_of
from data_shards.importing.classes import check_imported, class_counts
from data_shards.importing.plan import ImportOptions, ImportPlan
from data_shards.importing.usable import UNUSABLE, read_image
from data_shards.progress import Progress
from data_shards.shards.index import sample_ids
from data_shards.shards.manifest import (
    IMPORT_NAME,
    LOCK_NAME,
    MANIFEST_NAME,
    Manifest,
    ShardInfo,
    SplitInfo,
)
from data_shards.shards.sample import Sample
from data_shards.shards.writer import finished_shard, noted_files, write_shard
from data_shards.sources.base import SourceItem

_OTHER_SIZES = "some have other sizes"
_OTHER_TIMES = (
    "their sizes are the same, but not their modification times (if they were only copied, use "
    "the import as it is; cp -a and rsync -a keep the times)"
)
_OTHER_OUT = "choose another --out or remove the folder to import them as they are now"
_SHARD_FILE = re.compile(r"(train|test|validation)-\d{6}\.(tar|idx|labels\.npy|json)")
_logger = logging.getLogger(__name__)


def write_import(plan: ImportPlan, options: ImportOptions) -> Manifest:
    """Write the shards of a plan that no earlier import has finished, then the manifest.

    A finished import stays as it is, since training runs may rely on it: only a damaged shard is
    written again, and only if it comes out the same.

    Raises:
        DataError: when another import is writing there, the folder holds something else, this
            import was finished and would not come out the same now, or an image cannot be read and
            `options.on_error` is "stop".
    """
    out, fingerprint = options.out, plan.fingerprint()
    try:
        lock = FolderLock(out / LOCK_NAME)
    except OSError as error:
        raise _unwritable(out, error) from error
    busy = DataError(f"another import is writing into {out}; wait for it, or choose another --out")
    chunks = {split: chunks_of(plan, split, options.samples_per_shard) for split in plan.splits}
    planned = {chunk.name for split in chunks.values() for chunk in split}
    with lock.claimed(lambda: _claim_folder(out, plan, fingerprint, planned), busy=busy):
        total = sum(map(len, plan.splits.values()))
        with Progress(total, label=f"import {plan.source}", unit="images") as progress:
            run = _Run(
                plan=plan,
                options=options,
                fingerprint=fingerprint,
                progress=progress,
                chunks=chunks,
                finished=_finished_import(out),
            )
            run.find_changed_shards()
            splits = {split: run.write_split(split) for split in plan.splits}
        check_imported(run.imported["train"], plan.label_names)
        return run.written(splits)


def check_free(out: Path) -> None:
    """Check that a folder can be written, and is missing, empty or of an import.

    Raises:
        DataError: it cannot be written, or holds other files.
    """
    if not is_writable(out):
        raise DataError(f"cannot write to {out}; choose another --out")
    names = {entry.name for entry in out.iterdir()} - {LOCK_NAME} if out.is_dir() else set()
    others = [name for name in names if not name.startswith(TEMPORARY_PREFIX)]
    if others and IMPORT_NAME not in names:
        raise DataError(f"{out} is not empty and holds no import; choose another --out")


@dataclass(kw_only=True)
class _Run:
    """One import in progress, and what it has found so far."""

    plan: ImportPlan
    options: ImportOptions
    fingerprint: str
    progress: Progress
    chunks: Mapping[str, Sequence[Chunk]]
    """Of each split."""
    finished: Manifest | None
    """The manifest of an earlier import that finished; training runs may rely on it."""
    imported: dict[str, list[SourceItem]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    changed_shards: list[str] = field(default_factory=list)
    num_kept_shards: int = 0

    def find_changed_shards(self) -> None:
        """Find the shards whose image files have changed since; they are written again.

        Raises:
            DataError: when the import was finished: training runs may rely on it.
        """
        out, same_sizes = self.options.out, True
        for chunk in (chunk for chunks in self.chunks.values() for chunk in chunks):
            noted, ids = noted_files(out, chunk.name, fingerprint=chunk.fingerprint)
            if noted and noted != (found := chunk.file_checksums(ids)):
                self.changed_shards.append(chunk.name)
                same_sizes &= noted.get("sizes") == found.get("sizes")
        if not self.changed_shards:
            return
        what = (
            f"{out} holds this import, but the image files of {named(self.changed_shards)} have "
            f"changed since: {_OTHER_TIMES if same_sizes else _OTHER_SIZES}"
        )
        if self.finished is not None:
            raise DataError(f"{what}; {_OTHER_OUT}")
        _logger.warning("%s; these shards are written again", what)

    def write_split(self, split: str) -> SplitInfo:
        self.imported[split] = []
        shards = []
        for chunk in self.chunks[split]:
            shard = self._finished_or_new(chunk)
            self._sort_out(shard, chunk, split)
            shards.append(shard)
        imported = self.imported[split]
        histograms = {
            column: tuple(class_counts(imported, column, len(names)).tolist())
            for column, names in self.plan.label_names.items()
        }
        return SplitInfo(len(imported), histograms, tuple(shards))

    def written(self, splits: Mapping[str, SplitInfo]) -> Manifest:
        """Write the manifest, or compare it with an existing one.

        Raises:
            DataError: when they differ.
        """
        made = Manifest(
            folder=self.options.out.absolute(),
            source=self.plan.source,
            fingerprint=self.fingerprint,
            settings=self.plan.settings,
            label_columns=self.plan.label_columns,
            label_names=self.plan.label_names,
            splits={split: info for split, info in splits.items() if info.num_samples},
            skipped=(*self.plan.skipped, *self.plan.dropped_copies, *self.skipped),
        )
        if self.finished is None:
            return made.write()
        if made != replace(self.finished, checksum=""):
            raise DataError(
                f"{self.options.out} holds this import, but now it would not come out the same: "
                f"left out then: {named(self.finished.skipped) or 'none'}, now: "
                f"{named(made.skipped) or 'none'}; {_OTHER_OUT}"
            )
        return Manifest.load(self.options.out)

    def _finished_or_new(self, chunk: Chunk) -> ShardInfo:
        found = None
        if chunk.name not in self.changed_shards:
            out = self.options.out
            found = finished_shard(out, chunk.name, fingerprint=chunk.fingerprint)
        if found is not None:
            repaired = self._repaired(found, chunk)
            if not repaired:
                self.num_kept_shards += 1
                self.progress.update(len(chunk.items), kept_shards=self.num_kept_shards)
                return found
            if self.finished is not None:
                raise DataError(
                    f"{self.options.out} holds this import without images that are readable now: "
                    f"{named(repaired)}; {_OTHER_OUT}"
                )
        return self._rewritten(chunk)

    def _rewritten(self, chunk: Chunk) -> ShardInfo:
        """Write a shard; one of a finished import only if it comes out the same."""
        out, name = self.options.out, chunk.name
        splits = self.finished.splits.values() if self.finished is not None else ()
        before = next((s for split in splits for s in split.shards if s.name == name), None)
        if before is None:
            return self._write(out, chunk)
        with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=out) as folder:
            if self._write(Path(folder), chunk) != before:
                raise DataError(
                    f"{out} holds this import, but its shard {name} is damaged and would not come "
                    f"out the same now; {_OTHER_OUT}"
                )
            for file in Path(folder).iterdir():
                os.replace(file, out / file.name)
        return before

    def _write(self, folder: Path, chunk: Chunk) -> ShardInfo:
        return write_shard(
            folder,
            chunk.name,
            self._samples(chunk),
            self.plan.label_columns,
            fingerprint=chunk.fingerprint,
            files=chunk.file_checksums,
        )

    def _samples(self, chunk: Chunk) -> Iterator[Sample]:
        for sample_id, item in chunk.numbered():
            sample = self._sample(sample_id, item)
            if sample is not None:
                yield sample
            self.progress.update()

    def _sample(self, sample_id: int, item: SourceItem) -> Sample | None:
        """Load an image; None when it is skipped."""
        try:
            image = read_image(item, self.options.limits)
        except UNUSABLE as error:
            if self.options.on_error == "stop":
                raise DataError(
                    f"{item.name}: {error}; repair it or add --on-error skip, and the import goes "
                    "on where it stopped; without the file, it would divide the images anew"
                ) from error
            _logger.warning("skipped %s: %s", item.name, error)
            return None
        labels = {column: item.labels[column] for column in self.plan.label_columns}
        return Sample(sample_id, image, item.extension, labels, item.name)

    def _lacking(self, shard: ShardInfo, chunk: Chunk) -> dict[int, SourceItem]:
        """Id -> image, of those planned for a shard that are not in it."""
        if shard.num_samples == len(chunk.items):
            return {}
        present = set(sample_ids(self.options.out / shard.index_name))
        return {number: item for number, item in chunk.numbered() if number not in present}

    def _repaired(self, shard: ShardInfo, chunk: Chunk) -> list[str]:
        """Names of the images that a shard lacks and that can be read now."""
        lacking = self._lacking(shard, chunk)
        return [item.name for n, item in lacking.items() if self._sample(n, item) is not None]

    def _sort_out(self, shard: ShardInfo, chunk: Chunk, split: str) -> None:
        """Record which of the images planned for a shard are in it."""
        lacking = self._lacking(shard, chunk)
        self.skipped += [item.name for item in lacking.values()]
        self.imported[split] += [item for n, item in chunk.numbered() if n not in lacking]


def _claim_folder(out: Path, plan: ImportPlan, fingerprint: str, planned: Collection[str]) -> None:
    """Make `out` the folder of this import; of another one that is unfinished, shards may stay.

    Args:
        out: the folder.
        plan: of this import.
        fingerprint: of the plan.
        planned: names of its shards.

    Raises:
        DataError: when it cannot be written, or holds another finished import or other files.
    """
    try:
        check_free(out)
        names = {entry.name for entry in out.iterdir()}
        is_ours = _is_ours(out, names, fingerprint)
        clear_leftovers(out)
        if not is_ours:
            for name in filter(_SHARD_FILE.fullmatch, names):
                if name.partition(".")[0] not in planned:
                    (out / name).unlink()
            write_json(out / IMPORT_NAME, {"fingerprint": fingerprint, "source": plan.source})
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError) -> DataError:
    return DataError(f"cannot write to {out}: {error.strerror}; choose another --out")


def _finished_import(out: Path) -> Manifest | None:
    """The manifest of a folder; None if it is damaged, since no training run can start with it."""
    try:
        return Manifest.read(out) if (out / MANIFEST_NAME).exists() else None
    except DataError as error:
        _logger.warning("%s", error)
        return None


def _is_ours(out: Path, names: set[str], fingerprint: str) -> bool:
    """Return whether `out` belongs to this import already; False if it is free.

    Raises:
        DataError: when it holds another finished import.
    """
    if IMPORT_NAME not in names:
        return False
    if read_json(out / IMPORT_NAME).get("fingerprint") == fingerprint:
        return True
    if MANIFEST_NAME in names:
        raise DataError(
            f"{out} holds another import (other images or settings than these); "
            "choose another --out or remove the folder"
        )
    _logger.warning(
        "%s: an unfinished import of other images or settings is replaced; its shards that come "
        "out the same are kept",
        out,
    )
    return False
