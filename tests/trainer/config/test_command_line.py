from __future__ import annotations

from pathlib import Path

import pytest

from data_shards.errors import ConfigError
from trainer.config.command_line import (
    add_resume_option,
    config_parser,
    print_if_dry_run,
    resolved,
)
from trainer.config.shipped import RUN_CONFIG
from trainer.config.yaml_file import load_config, to_yaml


def write(folder: Path, text: str = "recipe: none\nrun: {seed: 3}\n") -> Path:
    (folder / RUN_CONFIG).write_text(text)
    return folder / RUN_CONFIG


def test_a_runs_folder_stands_for_its_configuration(tmp_path: Path) -> None:
    config = load_config(write(tmp_path))
    assert config.run.seed == 3
    assert load_config(tmp_path) == config
    assert load_config(tmp_path, ["run.seed=4"]).run.seed == 4


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{tmp_path} is a folder without a {RUN_CONFIG}"):
        load_config(tmp_path)


def test_files_and_checkpoints_may_be_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(write(tmp_path).parent))
    parser = config_parser("any", None)
    add_resume_option(parser)
    options = parser.parse_args(["--config=~", "--resume=~/run/checkpoints/step_000200"])
    assert resolved(options)[0].run.seed == 3
    assert options.resume == str(tmp_path / "run/checkpoints/step_000200")


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_dry_run_prints_what_is_resolved(
    tmp_path: Path, dry_run: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", str(write(tmp_path)), "--set", "train.steps=7"]
    options += ["--dry-run"] if dry_run else []
    parsed = config_parser("any", None).parse_args(options)
    config, derived = resolved(parsed)
    assert config.train.steps == 7
    assert print_if_dry_run(parsed, config, derived) == dry_run
    assert capsys.readouterr().out == (to_yaml(config, derived) if dry_run else "")
