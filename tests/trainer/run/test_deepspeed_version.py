"""A DeepSpeed that computes wrong gradients is refused before anything starts."""

import tomllib
from pathlib import Path

import pytest

from data_shards.errors import ConfigError
from trainer.run.deepspeed_version import LEAST, check_deepspeed

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("installed", ["0.17.6", "0.18.0", "0.18.2", "0.18.2+cu121", "0.9.10"])
def test_wrong_gradients_are_refused_with_the_command_that_helps(installed):
    with pytest.raises(ConfigError) as caught:
        check_deepspeed(installed)
    assert str(caught.value).startswith(f"DeepSpeed {installed} is installed, 0.18.3 or newer")
    assert str(caught.value).endswith(f'pip install "deepspeed>={LEAST}"')


@pytest.mark.parametrize("installed", [None, "0.18.3", "0.18.10", "0.19.8", "1.0.0"])
def test_others_are_used(installed):
    check_deepspeed(installed)


def test_the_package_asks_for_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"deepspeed>={LEAST}" in project["dependencies"]
