"""The command line of a rank: what it prints, how it ends."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from trainer import train
from trainer.config.yaml_file import load_config
from trainer.errors import NonFiniteLoss, Stopped
from trainer.train import main, parse_options

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def root_logger():
    """`main` sets up the root logger; give it back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    settings = {
        "recipe": "none",
        "run": {"folder": str(tmp_path / "run")},
        "data": {"shards": str(tmp_path / "no shards")},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_dry_run_prints_the_resolved_configuration(config, capsys, tmp_path):
    assert main(["--config", str(config), "--set", "train.steps=7", "--dry-run"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert load_config(printed) == load_config(config, ["train.steps=7"])
    assert not (tmp_path / "run").exists()


AS_A_PROGRAM = """
import atexit, runpy, sys
atexit.register(print, "the interpreter clears up")
sys.argv[1:] = {arguments}
runpy.run_module("trainer.train", run_name="__main__")
"""


@pytest.mark.parametrize(("seed", "exit_code"), [(7, 0), ("seven", 2)])
def test_a_rank_ends_before_the_interpreter_clears_up(config, seed, exit_code):
    """A thread of gloo that is late would make that an abort."""
    arguments = ["--config", str(config), "--set", f"run.seed={seed}", "--dry-run"]
    code = AS_A_PROGRAM.format(arguments=arguments)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == exit_code, ended.stderr
    assert ("seed: 7" in ended.stdout) == (exit_code == 0)
    assert ("rank 0: error: run.seed" in ended.stderr) == (exit_code == 2)
    assert "clears up" not in ended.stdout


def test_started_by_mpi_without_ranks_it_leaves_the_folder_alone(config, capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert main(["--config", str(config)]) == 2
    assert "rank 0: error: this is one of several processes" in capsys.readouterr().err
    assert not (config.parent / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "train.stepz=7"], "did you mean train.steps?"),
        (["--set", "train.steps=0"], "train.steps must be >= 1, got 0"),
        (["--set", "loss.name=softmax", "--set", "train.steps"], "--set needs KEY=VALUE"),
        ([], "no shards is not a folder; make it with `clmle import"),
    ],
)
def test_a_mistake_ends_with_2_and_one_line(config, capsys, options, message, tmp_path):
    assert main(["--config", str(config), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("rank 0: error: ")
    assert message in line
    assert not (tmp_path / "run").exists(), "a mistake must not claim the folder"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.backbone=tny"], "unknown model.backbone 'tny': did you mean tiny?"),
        (["model.backbone=iresnet18"], "needs model.input_size to be a multiple of 16, got 28"),
        (["evaluation.split=validation"], "has no split 'validation'"),
        (["model.weights=WEIGHTS"], "no tensor of the right shape for backbone."),
        (["model.backbone=tny", "RESUME"], "--resume nowhere: no complete checkpoint there"),
    ],
)
def test_what_the_data_and_the_network_exclude_does_not_claim_the_folder(
    config, capsys, options, message, tmp_path, tiny_data
):
    save_file({"layers.0.weight": torch.ones(2)}, str(tmp_path / "other.safetensors"))
    settings = [*options, f"data.shards={tiny_data.folder}"]
    settings = [s.replace("WEIGHTS", str(tmp_path / "other.safetensors")) for s in settings]
    pairs = [("--resume", "nowhere") if s == "RESUME" else ("--set", s) for s in settings]
    words = [word for pair in pairs for word in pair]
    assert main(["--config", str(config), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_missing_configuration_is_named(capsys, tmp_path):
    assert main(["--config", str(tmp_path / "nothing.yaml")]) == 2
    assert "nothing.yaml: No such file" in capsys.readouterr().err


def test_each_rank_says_who_it_is(config, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert main(["--config", str(config)]) == 2
    assert capsys.readouterr().err.startswith("rank 3: error: ")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (NonFiniteLoss("the loss is not finite"), "rank 0: error: the loss is not finite"),
        (Stopped("stopped after step 7"), "rank 0 WARNING stopped after step 7"),
        (OSError(28, "No space left on device"), "rank 0: error: No space left on device"),
        (PermissionError(13, "Permission denied", "runs/a"), "error: runs/a: Permission denied"),
        (ZeroDivisionError("a bug"), "ZeroDivisionError: a bug"),
    ],
)
def test_what_fails_while_training_ends_with_1(config, capsys, monkeypatch, error, shown):
    def fail(*arguments, **keywords):
        raise error

    monkeypatch.setattr(train, "train", fail)
    assert main(["--config", str(config)]) == 1
    printed = capsys.readouterr().err
    assert shown in printed
    assert ("Traceback" in printed) == isinstance(error, ZeroDivisionError)


def test_options_of_launchers_are_accepted():
    options = parse_options(["--config", "a.yaml", "--local_rank=3"])
    assert (options.config, options.resume, options.overrides) == ("a.yaml", "auto", [])


def test_the_module_is_a_program(config):
    result = subprocess.run(
        [sys.executable, "-m", "trainer.train", "--config", str(config)],
        cwd=ROOT,
        env={**os.environ, "RANK": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "no shards" in result.stderr
