from __future__ import annotations

from pathlib import Path

import pytest

from data_shards.errors import DataError
from data_shards.sources import SOURCE_NAMES, read_source
from data_shards.sources.base import extension_of


@pytest.mark.parametrize(
    ("name", "extension"),
    [("a.JPG", "jpg"), ("a.b.png", "png"), ("a", "img"), ("a.json", "img"), ("a.tar~", "img")],
)
def test_any_file_name_gives_an_extension_that_serves(name: str, extension: str) -> None:
    assert extension_of(name) == extension


def test_digits_take_no_path_and_all_others_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="take no path, got"):
        read_source("digits", tmp_path)
    for name in set(SOURCE_NAMES) - {"digits"}:
        with pytest.raises(DataError, match=f"{name} needs a path"):
            read_source(name, None)
        with pytest.raises(DataError, match="nowhere does not exist"):
            read_source(name, tmp_path / "nowhere")


def test_an_unknown_source_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown source 'cats', expected one of digits, idx"):
        read_source("cats", tmp_path)
