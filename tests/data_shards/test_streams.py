from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from data_shards.sources.base import Source, SourceItem
from data_shards.streams import (
    FILE_ERRORS,
    in_utf8,
    is_utf8,
    readable,
    write_any_name,
    write_file_to_stdout,
)

IN_UTF_8 = sys.getfilesystemencoding() == "utf-8"
needs_utf_8 = pytest.mark.skipif(not IN_UTF_8, reason="names of files are no UTF-8 here")


@pytest.mark.parametrize("name", ["ann", "Jürgen", "日本", "😀", "a\\b", ""])
def test_text_is_readable_as_it_is(name: str) -> None:
    assert readable(name) == name


@needs_utf_8
def test_bytes_that_are_no_text_are_escaped() -> None:
    assert readable("b\udce9a/\udcff") == "b\\xe9a/\\xff"
    assert (is_utf8("Jürgen"), is_utf8("b\udce9a")) == (True, False)
    assert in_utf8(Path("b\udce9a")).encode("utf-8", FILE_ERRORS) == b"b\xe9a"


@needs_utf_8
def test_names_of_a_source_are_made_readable_and_others_are_not_copied() -> None:
    items = [SourceItem(name, {"c": 0}, bytes, "png") for name in ("a/1", "b\udce9/1")]
    source = Source("any", {"train": items}, ("c",), {"c": ("a", "b\udce9")}, ("\udce9.png",))
    made = source.with_readable_names()
    assert [item.name for item in made.splits["train"]] == ["a/1", "b\\xe9/1"]
    assert made.splits["train"][0] is items[0]
    assert made.label_names == {"c": ("a", "b\\xe9")}
    assert made.unlabelled == ("\\xe9.png",)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_stream_takes_any_name(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    write_any_name()
    stream.write("b\udce9a 日本")
    stream.flush()
    assert b"b\\udce9a" in stream.buffer.getvalue()
    write_file_to_stdout()
    stream.write("b\udce9a 日本")
    stream.flush()
    assert stream.buffer.getvalue().endswith(b"b\xe9a " + "日本".encode())


def test_a_notebook_has_streams_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    write_any_name()
    write_file_to_stdout()
