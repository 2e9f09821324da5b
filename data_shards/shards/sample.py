"""One image with its labels, and its form inside a WebDataset tar.

A sample with id 12 is two members of a tar: `000000012.jpg`, the image file byte for byte, and
`000000012.json`, `{"labels": {"identity": 3}, "source": "lfw/Ann/Ann_0001.jpg"}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_shards.errors import DataError

LABEL_EXTENSION = "json"
_EXTENSION = re.compile(r"[a-z0-9]{1,8}")


@dataclass(frozen=True)
class Sample:
    """An encoded image, its number and its labels."""

    id: int
    """Number of the sample, unique over all splits of an import, >= 0."""
    image: bytes
    """The image file (JPEG, PNG, ...), not decoded."""
    extension: str
    """Suffix of the image file without the dot, in lower case."""
    labels: Mapping[str, int]
    """Label column -> class id."""
    source: str
    """Where the image came from, for human readers."""

    def __post_init__(self) -> None:
        if self.extension == LABEL_EXTENSION or not _EXTENSION.fullmatch(self.extension):
            raise DataError(
                f"sample {self.id} ({self.source}): extension {self.extension!r} cannot be used; "
                f"expected 1 to 8 lower-case letters or digits, not {LABEL_EXTENSION!r}"
            )

    def to_members(self) -> dict[str, str | bytes]:
        """Return what a WebDataset writer takes: the key, then extension -> bytes."""
        described = {"labels": dict(self.labels), "source": self.source}
        return {
            "__key__": sample_key(self.id),
            self.extension: self.image,
            LABEL_EXTENSION: json.dumps(described, sort_keys=True).encode("ascii"),
        }

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> Sample:
        """Make a sample from the undecoded members that a WebDataset reader gives.

        Raises:
            DataError: when the members are not those that `to_members` makes.
        """
        key = members.get("__key__", "?")
        extensions = [name for name in members if not name.startswith("__")]
        images = [name for name in extensions if name != LABEL_EXTENSION]
        if len(extensions) != 2 or len(images) != 1:
            raise DataError(
                f"sample {key}: expected one image and one {LABEL_EXTENSION}, got {extensions}; "
                "import again"
            )
        try:
            described = json.loads(members[LABEL_EXTENSION])
            labels = {str(column): int(label) for column, label in described["labels"].items()}
            return cls(int(key), members[images[0]], images[0], labels, str(described["source"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"sample {key}: cannot read its labels: {error}; import again"
            ) from error


def sample_key(sample_id: int) -> str:
    """Return the name of a sample in a tar; names sort as ids do up to a billion samples."""
    return f"{sample_id:09d}"
