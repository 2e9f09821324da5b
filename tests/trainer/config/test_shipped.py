from __future__ import annotations

from pathlib import Path

import pytest

from data_shards.errors import ConfigError
from trainer.config.shipped import config_path, shipped_configs
from trainer.config.yaml_file import load_config

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_shipped_configurations_are_those_of_the_checkout() -> None:
    assert list(shipped_configs().values()) == sorted(CONFIGS.glob("*.yaml"))
    assert {"digits", "long_tail"} <= shipped_configs().keys()


def test_a_bare_name_finds_a_shipped_configuration() -> None:
    assert config_path("digits") == CONFIGS / "digits.yaml"
    assert load_config("digits", ["recipe=none"]).run.folder == "runs/digits"


def test_a_folder_of_a_run_finds_its_configuration(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("recipe: none\nrun: {folder: somewhere}\n")
    assert load_config("runs/mine").run.folder == "somewhere"


def test_a_file_comes_before_a_shipped_name_and_another_folder_does_not(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    assert config_path("digits") == CONFIGS / "digits.yaml"
    (tmp_path / "long_tail").write_text("recipe: none\n")
    assert config_path("long_tail") == Path("long_tail")


@pytest.mark.parametrize(
    ("named", "answer"),
    [
        ("longtail", "did you mean --config long_tail?"),
        ("configs/digits.yaml", "did you mean --config digits?"),
        ("mine.yaml", "shipped: digits, "),
        (".", "folder without a config.yaml"),
    ],
)
def test_what_is_not_there_gets_a_suggestion(named: str, answer: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_path(named)
    assert answer in str(caught.value)
