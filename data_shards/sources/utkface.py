"""UTKFace and data sets with the same file names: AGE_GENDER_RACE_TIME.jpg, a folder or a tar.

Zhang, Song, Qi: Age Progression/Regression by Conditional Adversarial Autoencoder, CVPR 2017.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_shards.errors import DataError
from data_shards.sources.base import Source, SourceItem, extension_of
from data_shards.sources.files import files_of, refuse_copies

GENDERS = ("male", "female")
RACES = ("white", "black", "asian", "indian", "other")
OLD = 60
"""Age in years from which `age60` is "60+"."""
LEAST_IN_AGE_CLASS = 20
"""Fewest images of an `age_decade` class; a decade with fewer is merged with a neighbour."""
_MOST_YEARS = 150
_LAST_DECADE = 9
_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+\..+")
_IMAGE = re.compile(r".*\.(jpe?g|png|bmp|webp)", re.IGNORECASE)


@dataclass(frozen=True)
class Face:
    """The labels in a file's name."""

    age: int
    """In years."""
    gender: int
    """Index into `GENDERS`."""
    race: int
    """Index into `RACES`."""


def read(path: Path) -> Source:
    """List the faces of a folder or a tar (also .tgz, .tar.xz, ...), at any depth.

    Label columns are `race` (5 names), `age_decade` ("0-9", "10-19", ..., "90+"; decades with
    fewer than 20 images are merged, see `decade_bins`), `gender` and `age60` ("0-59", "60+").
    Classes without an image get no number, so a part of the set can be imported too; a column
    with a single class is left out. Images whose names lack these parts are `unlabelled`.

    Raises:
        DataError: when no file's name has these parts, a face occurs twice, such as in UTKFace/
            and crop_part1/, or the tar cannot be read.
    """
    files = files_of(path)
    images = sorted(name for name in files if _is_image(name))
    faces = {name: face for name in images if (face := parse(PurePosixPath(name).name))}
    if not faces:
        raise DataError(
            f"{path} holds no face; expected files such as 26_1_2_20170116184024662.jpg "
            "(age_gender_race_time)"
        )
    refuse_copies(path, faces, _photo)
    columns = _columns(list(faces.values()))
    items = [
        SourceItem(
            name,
            {column: int(labels[number]) for column, (_, labels) in columns.items()},
            files[name].load,
            extension_of(name),
            files[name].path,
        )
        for number, name in enumerate(faces)
    ]
    return Source(
        "utkface",
        {"train": items},
        tuple(columns),
        {column: names for column, (names, _) in columns.items()},
        unlabelled=tuple(name for name in images if name not in faces),
    )


def parse(file_name: str) -> Face | None:
    """Read a file's name; None when it is not AGE_GENDER_RACE_TIME.SUFFIX with values in range."""
    match = _NAME.fullmatch(file_name)
    if match is None:
        return None
    age, gender, race = map(int, match.groups())
    return Face(age, gender, race) if age <= _MOST_YEARS else None


def decade_bins(counts: Sequence[int], least: int) -> list[tuple[int, int]]:
    """Merge neighbouring decades until each bin has enough images.

    From the youngest on, decades are collected until they hold `least` images together; the rest
    at the old end is added to the last bin.

    Args:
        counts: images of each decade.
        least: fewest images of a bin.

    Returns:
        [first, last] decade of each bin, ascending, all decades covered; one bin if there are
        fewer than `least` images in all.
    """
    bins: list[tuple[int, int]] = []
    first, gathered = 0, 0
    for decade, count in enumerate(counts):
        gathered += count
        if gathered >= least:
            bins.append((first, decade))
            first, gathered = decade + 1, 0
    if first < len(counts):
        bins[-1:] = [(bins[-1][0] if bins else 0, len(counts) - 1)]
    return bins


def _photo(name: str) -> str:
    """AGE_GENDER_RACE_TIME; the rest tells versions of a photo apart (.jpg, .jpg.chip.jpg)."""
    return PurePosixPath(name).name.split(".")[0]


def _is_image(name: str) -> bool:
    file_name = PurePosixPath(name).name
    return not file_name.startswith(".") and _IMAGE.fullmatch(file_name) is not None


def _columns(faces: Sequence[Face]) -> dict[str, tuple[tuple[str, ...], list[int]]]:
    """Label column -> its class names, and the class of each face."""
    decades = [min(face.age // 10, _LAST_DECADE) for face in faces]
    counts = Counter(decades)
    bins = decade_bins([counts[d] for d in range(_LAST_DECADE + 1)], LEAST_IN_AGE_CLASS)
    bin_of = {
        d: number for number, (first, last) in enumerate(bins) for d in range(first, last + 1)
    }
    decade_names = [_ages(first, last) for first, last in bins]
    columns = {
        "race": _present(RACES, (face.race for face in faces)),
        "age_decade": _present(decade_names, (bin_of[decade] for decade in decades)),
        "gender": _present(GENDERS, (face.gender for face in faces)),
        "age60": _present((f"0-{OLD - 1}", f"{OLD}+"), (int(face.age >= OLD) for face in faces)),
    }
    several = {column: found for column, found in columns.items() if len(found[0]) > 1}
    # If no column has two classes, keep one: the import then reports that it needs two classes.
    return several or {"race": columns["race"]}


def _ages(first: int, last: int) -> str:
    """Name of the ages of the decades `first` to `last`."""
    return f"{10 * first}+" if last == _LAST_DECADE else f"{10 * first}-{10 * last + 9}"


def _present(names: Sequence[str], classes: Iterable[int]) -> tuple[tuple[str, ...], list[int]]:
    """Number the classes that occur from 0, in the order of `names`."""
    listed = list(classes)
    occurring = sorted(set(listed))
    number_of = {old: new for new, old in enumerate(occurring)}
    return tuple(names[old] for old in occurring), [number_of[old] for old in listed]
