from __future__ import annotations

import subprocess
import sys

import pytest

import data_shards


@pytest.mark.parametrize("name", data_shards.__all__)
def test_every_public_name_is_there(name: str) -> None:
    found = getattr(data_shards, name)
    assert found.__name__ == name
    assert found.__doc__


def test_an_unknown_name_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="'data_shards' has no attribute 'Shard'"):
        _ = data_shards.Shard


def test_the_package_itself_imports_nothing_heavy() -> None:
    code = "import sys, data_shards; print(sorted({'numpy', 'PIL', 'webdataset'} & {*sys.modules}))"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
