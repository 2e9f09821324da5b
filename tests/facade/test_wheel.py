"""A wheel works outside a checkout: command, configurations and facade; needs no network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainer.config.shipped import shipped_configs

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SOURCES = ("clmle", "data_shards", "clustering", "trainer", "cluster_jobs", "configs")
FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")


def ran(command: Sequence[str | Path], **options: object) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert result.returncode == 0, result.stdout + result.stderr
    return str(result.stdout)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but what the wheel holds."""
    folder = tmp_path_factory.mktemp("wheel")
    source, wheels, target = folder / "source", folder / "wheels", folder / "installed"
    source.mkdir()
    for name in SOURCES:  # a copy: the build leaves files behind, and would take up old ones
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    ran([*pip, "wheel", source, "--no-deps", "--no-build-isolation", "-w", wheels])
    ran([*pip, "install", "--no-deps", "--target", target, *wheels.glob("*.whl")])
    return target


def elsewhere(installed: Path, tmp_path: Path, *command: str | Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return ran([sys.executable, *command], cwd=tmp_path, env=environment)


def test_the_command_and_its_configurations_come_along(installed: Path, tmp_path: Path) -> None:
    clmle = installed / "bin" / "clmle"
    assert "usage: clmle VERB" in elsewhere(installed, tmp_path, clmle, "--help")
    elsewhere(installed, tmp_path, clmle, "import", "digits", "--out", "data/digits_lt")
    shown = elsewhere(installed, tmp_path, clmle, "run", "--config", "digits", "--dry-run")
    assert "folder: runs/digits" in shown
    shipped = "from trainer.config.shipped import *; print(*shipped_configs().values())"
    files = elsewhere(installed, tmp_path, "-c", shipped).split()
    assert [Path(file).stem for file in files] == list(shipped_configs())
    assert all(Path(file).is_relative_to(installed) for file in files)


def test_the_facade_is_that_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import clmle; clmle.ClmleLoss(); print(clmle.__file__, clmle.load_run.__doc__)"
    assert elsewhere(installed, tmp_path, "-c", code).startswith(str(installed))
