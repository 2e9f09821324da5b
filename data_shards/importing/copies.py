"""Copies: image files with the same bytes, found before anything is written.

A copy in a held-out split makes results look better than they are, and a copy with other labels
teaches a contradiction. Copies with the same labels in the same split do little harm.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_shards.errors import DataError, named
from data_shards.images.limits import ImageLimits
from data_shards.importing.classes import classes_without
from data_shards.importing.plan import ImportOptions, ImportPlan
from data_shards.importing.usable import UNUSABLE, why_unusable
from data_shards.progress import Progress
from data_shards.sources.base import SourceItem

_STAYING = ("test", "validation", "train")
"""Of copies in several splits, the one in the first of these stays."""
_THREADS = 8  # hide the latency of a remote disk; hashing takes little
_ITEMS_AT_ONCE = 1000
_MOST_SHOWN = 3  # names of a group
_DIGEST_BYTES = 16  # two uint64


class Place(NamedTuple):
    """An image of a plan."""

    split: str
    item: SourceItem


Group = Sequence[Place]
"""Images with the same bytes, two or more, the one that may stay first."""


@dataclass(frozen=True)
class Copies:
    """The copies among the images of an import, by what they do."""

    contradicting: list[Group]
    """With different labels."""
    leaking: list[Group]
    """With the same labels in several splits."""
    harmless: list[Group]
    """With the same labels in the same split."""

    def described(self) -> list[str]:
        """A phrase for each kind that occurs: how many images, and the first names."""
        kinds = {
            "with different labels": self.contradicting,
            "in more than one split": self.leaking,
            "within a class and a split": self.harmless,
        }
        return [
            f"{len(groups):,} {how}: {named(_shown(groups))}"
            for how, groups in kinds.items()
            if groups
        ]

    def superfluous(self) -> Iterator[Place]:
        """The images to drop so that each occurs once, and none with different labels."""
        for group in self.contradicting:
            yield from group
        for group in (*self.leaking, *self.harmless):
            yield from group[1:]


def settle_copies(plan: ImportPlan, options: ImportOptions) -> ImportPlan:
    """Find the copies among the images of a plan, and deal with them as the options say.

    Returns:
        The plan, without superfluous copies if these are to be dropped; its notes tell of them.

    Raises:
        DataError: there are copies with different labels or in several splits, and
            `options.duplicates` is "stop"; or dropping them takes all training images of a class.
    """
    copies = find_copies(plan, options.limits)
    if options.duplicates == "stop" and (copies.contradicting or copies.leaking):
        raise DataError(
            "images occur several times, "
            f"{'; '.join(replace(copies, harmless=[]).described())}; remove all copies but the "
            "right one, or choose --duplicates drop (each image stays once, in the test split if "
            "it is there, and none with different labels) or --duplicates keep"
        )
    made = _dropped(plan, copies) if options.duplicates == "drop" else plan
    notes = [f"images that occur several times, {phrase}" for phrase in copies.described()]
    if made.dropped_copies:
        notes.append(f"dropped {len(made.dropped_copies):,} of these; manifest.json names them")
    return replace(made, notes=(*made.notes, *notes))


def find_copies(plan: ImportPlan, limits: ImageLimits) -> Copies:
    """Find the images of a plan that have the same bytes; files that are no images do not count."""
    items = [item for split in _STAYING for item in plan.splits.get(split, ())]
    ends = np.cumsum([len(plan.splits.get(split, ())) for split in _STAYING])

    def place(position: int) -> Place:
        return Place(_STAYING[np.searchsorted(ends, position, side="right")], items[position])

    groups = [
        [place(position) for position in positions]
        for positions in same_bytes(items, label=f"look for copies in {plan.source}")
        if why_unusable(items[positions[0]], limits) is None
    ]
    copies = Copies([], [], [])
    for group in groups:
        if _has_several_labels(group, plan.label_columns):
            copies.contradicting.append(group)
        elif len({place.split for place in group}) > 1:
            copies.leaking.append(group)
        else:
            copies.harmless.append(group)
    return copies


def same_bytes(items: Sequence[SourceItem], *, label: str) -> list[list[int]]:
    """Find the items whose images have the same bytes; those that cannot be read have none.

    Only files of a size that occurs more than once are read; of each, 16 bytes are remembered.

    Args:
        items: may be loaded by several threads at once.
        label: of the progress shown.

    Returns:
        Positions in `items` of each group of two or more, ascending; the groups by the first.
    """
    candidates = _of_repeated_size(items)
    digests = np.zeros((len(candidates), 2), dtype=np.uint64)
    is_read = np.zeros(len(candidates), dtype=bool)
    with (
        Progress(len(candidates), label=label, unit="images") as progress,
        ThreadPoolExecutor(_THREADS) as threads,
    ):
        for start in range(0, len(candidates), _ITEMS_AT_ONCE):
            part = candidates[start : start + _ITEMS_AT_ONCE]
            for row, digest in enumerate(threads.map(_digest, (items[n] for n in part)), start):
                if digest is not None:
                    digests[row] = np.frombuffer(digest, dtype=np.uint64)
                    is_read[row] = True
            progress.update(len(part))
    found = [candidates[is_read][rows].tolist() for rows in _equal_rows(digests[is_read])]
    return sorted(found)


def _of_repeated_size(items: Sequence[SourceItem]) -> npt.NDArray[np.int64]:
    """Positions of the items whose file is as large as another; of a tar, that is all."""
    size_of = lru_cache(maxsize=1)(_size)  # the images of a tar follow each other
    sizes = np.fromiter((size_of(item.file) for item in items), dtype=np.int64, count=len(items))
    _, kind, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[kind] > 1)


def _size(file: Path | None) -> int:
    try:
        return -1 if file is None else os.stat(file).st_size
    except OSError:  # it is reported when it is read
        return -1


def _digest(item: SourceItem) -> bytes | None:
    """16 bytes that stand for an image's; None if it cannot be read."""
    try:
        return hashlib.blake2b(item.load(), digest_size=_DIGEST_BYTES).digest()
    except UNUSABLE:
        return None


def _equal_rows(rows: npt.NDArray[np.uint64]) -> Iterator[npt.NDArray[np.int64]]:
    """Numbers of the rows that are equal to another, ascending in each group."""
    order = np.lexsort(rows.T)  # stable
    is_new = np.ones(len(rows) + 1, dtype=bool)
    is_new[1:-1] = (rows[order][1:] != rows[order][:-1]).any(axis=1)
    starts = np.flatnonzero(is_new)
    for run in np.flatnonzero(np.diff(starts) > 1):
        yield order[starts[run] : starts[run + 1]]


def _has_several_labels(group: Group, columns: Iterable[str]) -> bool:
    first = group[0].item.labels
    return any(place.item.labels[c] != first[c] for place in group[1:] for c in columns)


def _shown(groups: Sequence[Group]) -> list[str]:
    """The names of each group, as text; of a large group the first."""
    return [
        " = ".join([place.item.name for place in group[:_MOST_SHOWN]])
        + (f" = {len(group) - _MOST_SHOWN:,} more" if len(group) > _MOST_SHOWN else "")
        for group in groups
    ]


def _dropped(plan: ImportPlan, copies: Copies) -> ImportPlan:
    """The plan without superfluous copies.

    Raises:
        DataError: a class of the first label column keeps no training image.
    """
    superfluous = list(copies.superfluous())
    leaving = {(place.split, place.item.name) for place in superfluous}
    splits = {
        split: [item for item in items if (split, item.name) not in leaving]
        for split, items in plan.splits.items()
    }
    column = plan.label_columns[0]
    lacking = classes_without(splits["train"], {column: plan.label_names[column]})
    if lacking:
        raise DataError(
            f"--duplicates drop leaves {len(lacking[column]):,} class(es) of {column!r} without a "
            f"training image: {named(lacking[column])}, since all are copies of images of other "
            "classes or splits; remove these classes, or the classes that they are copies of"
        )
    return replace(
        plan,
        splits={split: items for split, items in splits.items() if items},
        dropped_copies=tuple(place.item.name for place in superfluous),
    )
