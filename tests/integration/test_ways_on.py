"""The way that a refusal names works."""

import re

import pytest

from data_shards.atomic import read_json
from tests.helpers.local_service import LocalService
from tests.helpers.tiny_data import TEST_COUNTS, TRAIN_COUNTS, write_tiny_data
from tests.helpers.training import series, succeeded, tiny_config, train_ranks
from trainer.config.builder import with_settings
from trainer.run.folder import RunFolder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_shards):
    """A run of 20 steps, with a checkpoint of step 16, too."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    config = tiny_config(folder, tiny_shards, checkpoint__every=16)
    with LocalService(config):
        succeeded(train_ranks(config))
    return config


@pytest.mark.parametrize(
    ("settings", "first_step"),
    [
        ({"optim.learning_rate": 0.01}, 17),
        ({"train.steps": 24}, 21),
        ({"loss.name": "arcface"}, 1),
        ({"data.shards": "another class"}, 1),
    ],
)
def test_a_changed_run_goes_on_as_its_refusal_says(finished, tmp_path, settings, first_step):
    if "data.shards" in settings:
        counts = {"train": (*TRAIN_COUNTS, 4), "test": (*TEST_COUNTS, 2)}
        settings = {"data.shards": str(write_tiny_data(tmp_path / "data", **counts).folder)}
    changed = with_settings(finished, settings)
    ((code, said),) = train_ranks(changed)
    assert code == 2
    assert "already holds another run" in said
    resume = re.search(r"--resume [^;]+", said)
    weights = re.search(r"model\.weights=([^;]+)", said)
    new = {"run.folder": str(tmp_path / "new"), "model.weights": weights[1] if weights else ""}
    moved = with_settings(changed, new)
    with LocalService(moved):
        succeeded(train_ranks(moved, options=tuple(resume[0].split()) if resume else ()))
    assert min(series(moved)) == first_step
    assert read_json(RunFolder(moved.run_path).report)["balanced_accuracy"]
