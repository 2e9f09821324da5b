from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from data_shards import importer
from data_shards.errors import DataError
from data_shards.sources.base import Source, SourceItem
from data_shards.sources.registry import SOURCES, SourceEntry, read_source
from tests.helpers.image_shards import png


def test_digits_take_no_path_and_all_others_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"takes no path .*, got"):
        read_source("digits", tmp_path)
    for name in set(SOURCES) - {"digits"}:
        with pytest.raises(DataError, match=f"{name} needs a path"):
            read_source(name, None)
        with pytest.raises(DataError, match="nowhere does not exist"):
            read_source(name, tmp_path / "nowhere")


def test_an_unknown_source_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown source 'cats'; expected one of digits, image-"):
        read_source("cats", tmp_path)


@pytest.mark.parametrize(
    ("typed", "meant"), [("imagefolder", "image-folder"), ("digit", "digits"), ("LFW", "lfw")]
)
def test_a_misspelt_source_gets_a_suggestion(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert importer.main([typed]) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_a_source_is_one_module_and_one_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(path: Path) -> Source:
        items = [
            SourceItem(f"{path.name}/{n}", {"side": n % 2}, partial(png, n), "png")
            for n in range(8)
        ]
        return Source("toy", {"train": items}, ("side",), {"side": ("left", "right")})

    toy = ModuleType("toy_source")
    toy.read = read  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_source", toy)
    monkeypatch.setitem(SOURCES, "toy", SourceEntry("toy_source", "two sides of a coin"))
    assert importer.main(["toy", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "toy, 2 classes" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        importer.main(["--help"])
    assert "two sides of a coin" in capsys.readouterr().out
