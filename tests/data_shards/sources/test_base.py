from __future__ import annotations

import pytest

from data_shards.sources.base import extension_of


@pytest.mark.parametrize(
    ("name", "extension"),
    [("a.JPG", "jpg"), ("a.b.png", "png"), ("a", "img"), ("a.json", "img"), ("a.tar~", "img")],
)
def test_any_file_name_gives_an_extension_that_serves(name: str, extension: str) -> None:
    assert extension_of(name) == extension
