from __future__ import annotations

from typing import Any

import pytest

from data_shards.errors import DataError
from data_shards.shards.sample import Sample


def test_a_sample_comes_back_from_its_members() -> None:
    sample = Sample(12, b"\x00image", "jpg", {"identity": 3, "age": 40}, "lfw/Ännchen_0001.jpg")
    members = sample.to_members()
    assert members["__key__"] == "000000012"
    assert sorted(members) == ["__key__", "jpg", "json"]
    assert Sample.from_members({**members, "__url__": "a.tar"}) == sample


@pytest.mark.parametrize("extension", ["json", "JPG", "tar.gz", "", "a b"])
def test_an_extension_that_breaks_the_tar_is_refused(extension: str) -> None:
    with pytest.raises(DataError, match="extension"):
        Sample(1, b"", extension, {}, "made")


@pytest.mark.parametrize(
    "members",
    [
        {"__key__": "1", "jpg": b""},
        {"__key__": "1", "json": b"{}"},
        {"__key__": "1", "jpg": b"", "png": b"", "json": b"{}"},
        {"__key__": "1", "jpg": b"", "json": b"{}"},
        {"__key__": "1", "jpg": b"", "json": b"no json"},
        {"__key__": "one", "jpg": b"", "json": b'{"labels": {}, "source": "a"}'},
        {"__key__": "1", "jpg": b"", "json": b'{"labels": [1], "source": "a"}'},
    ],
)
def test_members_of_somebody_else_are_refused(members: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"sample {members['__key__']}"):
        Sample.from_members(members)
