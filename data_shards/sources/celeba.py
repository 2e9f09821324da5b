"""CelebA: aligned faces with forty yes-or-no attributes.

Liu, Luo, Wang, Tang: Deep Learning Face Attributes in the Wild, ICCV 2015.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from data_shards.errors import DataError
from data_shards.sources.base import Source, SourceItem, extension_of

IMAGES = "img_align_celeba"
ATTRIBUTES = "list_attr_celeba.txt"
PARTITION = "list_eval_partition.txt"
_SPLITS = {"0": "train", "1": "validation", "2": "test"}
_CLASSES = {"-1": 0, "1": 1}
_NAMES = ("no", "yes")
_REMEDY = "copy the published list again"


def read(folder: Path) -> Source:
    """List the faces of a folder with img_align_celeba/ and the two published lists.

    The label columns are the attributes, their classes "no" and "yes"; the splits are the
    official ones.

    Raises:
        DataError: when a list is missing, one of its lines is not in the published format, or the
            two lists do not name the same images, each once.
    """
    columns, labels = _attributes(folder / ATTRIBUTES)
    splits: dict[str, list[SourceItem]] = {split: [] for split in _SPLITS.values()}
    for name, split in _partition(folder / PARTITION, labels).items():
        path = folder / IMAGES / name
        classes = dict(zip(columns, labels[name], strict=True))
        splits[split].append(
            SourceItem(f"{IMAGES}/{name}", classes, path.read_bytes, extension_of(name), path)
        )
    return Source(
        "celeba",
        {split: items for split, items in splits.items() if items or split == "train"},
        columns,
        dict.fromkeys(columns, _NAMES),
    )


def _attributes(path: Path) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """The attributes' names, and image -> class of each."""
    lines = _lines(path)
    _, count = next(lines, (0, [""]))
    _, names = next(lines, (0, [""]))
    labels: dict[str, tuple[int, ...]] = {}
    for number, (image, *values) in lines:
        if len(values) != len(names) or not _CLASSES.keys() >= set(values):
            raise DataError(
                f"{path}:{number}: expected an image and {len(names)} values of 1 or -1, "
                f"got {' '.join([image, *values])[:80]!r}; {_REMEDY}"
            )
        if "/" in image:  # a path could lead outside the folder
            raise DataError(
                f"{path}:{number}: expected a file name without folders, got {image!r}; {_REMEDY}"
            )
        labels[image] = tuple(_CLASSES[value] for value in values)
    if count != [str(len(labels))]:
        raise DataError(
            f"{path}: expected the number of images, then the attributes' names, then one line per "
            f"image, got {' '.join(count)!r} in the first line, and {len(labels):,} images; "
            f"{_REMEDY}"
        )
    return tuple(names), labels


def _partition(path: Path, images: Collection[str]) -> dict[str, str]:
    """Image -> split, in the order of the list; `images` are those of the other list."""
    splits: dict[str, str] = {}
    repeated: list[str] = []
    for number, (name, *rest) in _lines(path):
        if len(rest) != 1 or rest[0] not in _SPLITS or name not in images:
            raise DataError(
                f"{path}:{number}: expected an image of {ATTRIBUTES} and 0, 1 or 2, "
                f"got {' '.join([name, *rest])!r}; {_REMEDY}"
            )
        if name in splits:
            repeated.append(name)
        splits[name] = _SPLITS[rest[0]]
    missing = [name for name in images if name not in splits]
    if missing or repeated:
        raise DataError(
            f"{path}: expected each of the {len(images):,} images of {ATTRIBUTES} once, missing: "
            f"{_counted(missing)}, repeated: {_counted(repeated)}; {_REMEDY}, "
            "or, for a part of the images, shorten both lists in the same way"
        )
    return splits


def _counted(names: list[str]) -> str:
    return f"{len(names):,} (the first is {names[0]})" if names else "none"


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and words of each line that is not empty."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected {IMAGES}/, {ATTRIBUTES} and {PARTITION}")
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.split()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error}); copy the published list again") from error
