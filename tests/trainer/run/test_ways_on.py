"""A folder of another run is refused with the way in which its work can be used."""

import re
import shutil

import pytest

from data_shards.errors import ConfigError
from tests.helpers.run_folders import write_checkpoint, write_snapshot_manifest
from tests.helpers.tiny_data import TEST_COUNTS, TRAIN_COUNTS, write_tiny_data
from tests.helpers.training import tiny_config
from trainer.config.builder import with_settings
from trainer.run.claim import claim_folder
from trainer.run.folder import RunFolder, step_name


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Folders of shards: the run's, the same at another place, and with one more class."""
    root = tmp_path_factory.mktemp("shards")
    write_tiny_data(root / "data")
    shutil.copytree(root / "data", root / "moved")
    write_tiny_data(root / "more", train=(*TRAIN_COUNTS, 4), test=(*TEST_COUNTS, 2))
    return root


@pytest.fixture
def config(shards, tmp_path):
    return tiny_config(tmp_path / "run", shards / "data")


@pytest.fixture
def run(config):
    """The folder of a finished run of 20 steps, as far as a claim looks at it."""
    run = RunFolder(config.run_path)
    claim_folder(run, config, fresh=True)
    for step in (16, 20):
        write_checkpoint(config, step)
        write_snapshot_manifest(config, step)
    return run


def refusal(run, config, **settings):
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    with pytest.raises(ConfigError, match="already holds another run") as caught:
        claim_folder(run, with_settings(config, dotted), fresh=False)
    return str(caught.value)


@pytest.mark.parametrize(
    ("settings", "step"),
    [
        ({"optim__learning_rate": 0.01}, 16),
        ({"train__steps": 30}, 20),
        ({"train__steps": 18}, 16),
        ({"train__precision": "bf16"}, 16),
        ({"run__seed": 3}, 16),
        ({"loss__name": "softmax"}, 16),
        ({"data__shards": "moved"}, 16),
    ],
)
def test_what_a_checkpoint_fits_resumes_from_it(run, config, shards, settings, step):
    if "data__shards" in settings:
        settings = {"data__shards": str(shards / settings["data__shards"])}
    way = f"set run.folder to a new folder and add --resume {run.checkpoints / step_name(step)};"
    assert way in refusal(run, config, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"data__shards": "more"},
        {"tasks": [{"name": "parity", "label": "parity"}]},
        {"model__embedding_dim": 16},
        {"model__input_size": 12},
        {"optim__name": "adamw"},
        {"train__zero_stage": 1},
        {"train__classifier_share": 0.1},
        {"train__steps": 10},
        {"loss__name": "arcface"},
    ],
)
def test_what_it_does_not_fit_starts_from_the_weights(run, config, shards, settings):
    if "data__shards" in settings:
        settings = {"data__shards": str(shards / settings["data__shards"])}
    said = refusal(run, config, **settings)
    assert f"set run.folder to a new folder and model.weights={run.snapshots}/step_000020;" in said
    assert "--resume" not in said


@pytest.mark.parametrize("settings", [{"model__channels": 3}, {"model__backbone": "iresnet18"}])
def test_another_backbone_starts_over(run, config, settings):
    said = refusal(run, config, **settings)
    assert re.search(r"here\); set run\.folder to a new folder, or remove this one$", said), said


def test_only_the_first_differences_are_listed(run, config):
    others = {"cluster__iterations": 3, "data__shift": 3, "optim__weight_decay": 0.5}
    others |= {"loss__scale": 9.0, "run__seed": 1, "train__steps": 30}
    said = refusal(run, config, **others)
    assert "another run: cluster.iterations (" in said
    assert "run.seed (0 there, 1 here) and 1 more; to continue" in said
