"""Texts of `--set` are what was typed; paths may begin with `~`."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_shards.errors import ConfigError
from trainer.config.baselines import baseline_config
from trainer.config.builder import build_config, is_text
from trainer.config.yaml_file import load_config, parse_override, to_yaml


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text("recipe: none\n", encoding="utf-8")
    return tmp_path / "mine.yaml"


TEXTS = [
    *("runs/exp #2", "a: b", "a: [", "'quoted'", '"quoted"', "null", "yes", "1e3", "007"),
    *("2024-01-01", " blank ", "!tag", "&a", "*a", "- a", "x=y", "日本", "b\udce9", "{}", "%"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_taken_as_it_is_written(file: Path, text: str) -> None:
    overrides = [f"data.shards={text}", f"model.weights={text}", f"model.backbone={text}"]
    config = load_config(file, overrides)
    assert (config.data.shards, config.model.weights, config.model.backbone) == (text,) * 3
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(file) == config


def test_no_text_is_the_empty_one(file: Path) -> None:
    assert load_config(file, ["model.weights="]).model.weights == ""
    with pytest.raises(ConfigError, match=r"run\.folder must be a path, got ''"):
        load_config(file, ["run.folder="])


def test_a_text_of_a_baseline_too(file: Path) -> None:
    overrides = ["baselines.one.model.weights=a #b", "baselines.one.model.channels=3 # RGB"]
    config = load_config(file, overrides)
    made = baseline_config(config, "one")
    assert (made.model.weights, made.model.channels) == ("a #b", 3)


def test_other_settings_are_yaml() -> None:
    assert parse_override("train.steps=7 # few") == ("train.steps", 7)
    assert parse_override("optim.name='adamw'") == ("optim.name", "adamw")
    assert parse_override("tasks=[{name: a, label: b}]")[1] == [{"name": "a", "label": "b"}]
    texts = ("run.folder", "data.shards", "model.backbone", "model.weights", "cluster.init")
    assert all(map(is_text, (*texts, "loss.name", "baselines.a b.loss.name")))
    others = ("run", "run.seed", "tasks", "loss.scale", "recipe", "baselines", "baselines.a", "no")
    assert not any(map(is_text, others))


@pytest.mark.parametrize("value", ["2019-01-01", "007", "yes"])
def test_a_text_of_a_file_that_yaml_reads_as_something_else_is_refused(
    file: Path, value: str
) -> None:
    file.write_text(f"recipe: none\nrun: {{folder: {value}}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run\.folder must be of type str, .*write it in quotes"):
        load_config(file)


def test_a_file_in_another_encoding_is_refused(file: Path) -> None:
    file.write_bytes("run: {folder: läufe}".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"mine\.yaml is not UTF-8 .*; save it as UTF-8"):
        load_config(file)


def test_the_home_folder_in_files_and_overrides(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    text = "recipe: none\nrun: {folder: ~/runs/a}\nmodel: {weights: ~/w}\n"
    file.write_text(text, encoding="utf-8")
    config = load_config(file, ["data.shards=~/data"])
    assert config.run.folder == "/home/me/runs/a"
    assert config.model.weights == "/home/me/w"
    assert config.data.shards == "/home/me/data"
    assert config == build_config(
        {
            "recipe": "none",
            "run": {"folder": "/home/me/runs/a"},
            "data": {"shards": "/home/me/data"},
            "model": {"weights": "/home/me/w"},
        }
    )
    with pytest.raises(ConfigError, match=r"run\.folder: ~nobody-here/a: there is no home folder"):
        load_config(file, ["run.folder=~nobody-here/a"])
