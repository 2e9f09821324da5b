from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from data_shards.errors import DataError
from data_shards.paths import home_expanded, path_option


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_leading_tilde_is_the_home_folder(home: Path) -> None:
    assert home_expanded("~/data/mine") == f"{home}/data/mine"
    assert home_expanded("~") == str(home)
    assert path_option("~/data") == home / "data"


@pytest.mark.parametrize("path", ["data/mine", "/data/a~b", "./~", "a/~/b", ""])
def test_other_paths_stay_as_they_are(path: str) -> None:
    assert home_expanded(path) == path


def test_the_home_of_nobody_is_no_folder_of_that_name() -> None:
    with pytest.raises(DataError, match=r"no home folder ~no-such-user; .* \./~no-such-user/x for"):
        home_expanded("~no-such-user/x")
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--out", type=path_option)
    with pytest.raises(argparse.ArgumentError, match="no home folder ~no-such-user"):
        parser.parse_args(["--out=~no-such-user"])
