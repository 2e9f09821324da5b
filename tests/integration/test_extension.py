"""A new source, loss, backbone, read-out, verb or k-means rule is one file and one entry.

`toys/` has the smallest of each. Here they are put into the registries, which is all that may be
needed, and used as any other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import clmle
from cluster_jobs import cli
from clustering import cluster_arrays
from clustering.initialisation import INITIALISATIONS
from data_shards.atomic import read_json
from data_shards.errors import ConfigError
from data_shards.shards.manifest import Manifest
from data_shards.sources.registry import SOURCES, SourceEntry
from tests.helpers.local_service import LocalService
from tests.helpers.training import series, succeeded, train_ranks
from tests.integration.toys import backbone, initialisation, loss, read_out, source, verb
from trainer.config.yaml_file import load_config
from trainer.evaluation.registry import READ_OUTS
from trainer.losses.registry import LOSSES
from trainer.models.backbones import BACKBONES
from trainer.run.folder import RunFolder

ENTRIES = (
    (SOURCES, SourceEntry(source.__name__, "nothing: they are drawn", has_path=False)),
    (LOSSES, loss.SPEC),
    (BACKBONES, backbone.ToyBackbone),
    (READ_OUTS, read_out.READ_OUT),
    (cli.VERBS, (verb.__name__, "repeats its arguments")),
    (INITIALISATIONS, initialisation.INITIALISATION),
)
CONFIG = """\
run: {folder: FOLDER/run}
data: {shards: FOLDER/shards}
model: {backbone: toy, input_size: 8, embedding_dim: 4}
loss: {name: toy, power: 3}
sampler: {micro_batch_size: 12}
cluster: {init: toy}
optim: {learning_rate: 0.05, warmup_steps: 1}
train: {steps: 12, log_every: 1}
"""


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, entry in ENTRIES:
        monkeypatch.setitem(registry, "toy", entry)


def add_toys(rank: int) -> None:
    """In a rank's own process."""
    for registry, entry in ENTRIES:
        registry["toy"] = entry


@pytest.mark.slow
def test_a_run_of_toys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A source is imported, a loss trains a backbone, a read-out is counted, a rule clusters."""
    assert cli.main(["import", "toy", "--out", str(tmp_path / "shards")]) == 0
    assert "shards: toy, 2 classes" in capsys.readouterr().out
    manifest = Manifest.load(tmp_path / "shards")
    assert manifest.class_counts("train", "direction").tolist() == [18, 9]

    (tmp_path / "toy.yaml").write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    config = load_config(tmp_path / "toy.yaml")
    assert config.loss == loss.ToySettings(power=3)
    with LocalService(config):
        succeeded(train_ranks(config, prepare=add_toys))
    shown = list(series(config, "train/direction/toy").values())
    assert len(shown) == 12
    assert sum(shown[-4:]) < 0.9 * sum(shown[:4])

    run = RunFolder(config.run_path)
    accuracy = read_json(run.report)["balanced_accuracy"]
    assert {"head", "knc_margin", "toy"} <= set(accuracy)
    assert accuracy["toy"] == 0.5

    trained = clmle.load_run(run.path)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    embeddings = trained.embed(pixels)
    assert embeddings.shape == (5, 4)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    assert {result.name for result in trained.classify(pixels)} <= set(source.NAMES)


def test_a_loss_has_its_own_settings_only(tmp_path: Path) -> None:
    for given, said in [
        ("{name: toy, pover: 3}", "did you mean loss.power"),
        ("{name: toy, gamma: 3}", "loss.name toy has no such setting, it is of focal"),
        ("{name: softmax, power: 3}", "it is of toy"),
        ("{name: toy, power: -1}", "loss.power must be >= 0"),
    ]:
        (tmp_path / "toy.yaml").write_text(f"recipe: none\nloss: {given}\n")
        with pytest.raises(ConfigError, match=said):
            load_config(tmp_path / "toy.yaml")


def test_a_verb_is_shown_and_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["toy", "one", "two"]) == 0
    assert capsys.readouterr().out == "one two\n"
    assert cli.main(["toy"]) == 2
    assert "nothing to repeat" in capsys.readouterr().err
    assert cli.main(["--help"]) == 0
    assert "  toy        repeats its arguments" in capsys.readouterr().out


def test_a_rule_for_the_first_centroids_clusters() -> None:
    rows = np.random.default_rng(0).standard_normal((60, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = np.repeat([0, 1], [40, 20])
    first, second = (
        cluster_arrays(rows, labels, target_size=5, init="toy", seed=seed) for seed in (0, 1)
    )
    assert first.class_sizes.tolist() == [40, 20]
    assert first.num_clusters > 2
    assert first.centroids.tobytes() == second.centroids.tobytes(), "the rule draws nothing"
