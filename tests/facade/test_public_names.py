from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import clmle


@pytest.mark.parametrize("name", clmle.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(clmle, name)
    assert found.__name__ == name
    assert found.__doc__
    assert name in dir(clmle)


def test_the_version_is_that_of_the_command() -> None:
    assert clmle.__version__ == version("clmle")


def test_an_unknown_name_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="'clmle' has no attribute 'train'"):
        _ = clmle.train


def test_the_import_is_instant_and_runs_need_neither_ray_nor_deepspeed() -> None:
    code = (
        "import sys, clmle; assert not {'numpy', 'torch', 'trainer'} & {*sys.modules};"
        "[getattr(clmle, name) for name in clmle.__all__];"
        "assert not {'ray', 'deepspeed', 'faiss', 'cluster_jobs'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
