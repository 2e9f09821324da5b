"""Baselines, tasks, losses: each trains to the end and reports every read-out."""

import math

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from clustering.table import store
from data_shards.atomic import read_json
from tests.helpers.local_service import LocalService
from tests.helpers.tiny_data import write_tiny_data
from tests.helpers.training import series, succeeded, tiny_config, train_ranks, weights
from tests.integration.test_training import sigterm_at
from trainer.run.folder import RunFolder, checkpoint_steps
from trainer.state.metrics import read_metrics

pytestmark = pytest.mark.slow

BY_TABLE = ["knc_margin", "knc_soft", "knc_balanced", "ncm"]
PARTS = ["softmax", "between", "within", "retrained"]
STEPS = 10


def trained(folder, shards, *, num_ranks=1, **settings):
    """The report of a run of 10 steps, and what its ranks wrote."""
    config = tiny_config(folder / "run", shards, train__steps=STEPS, **settings)
    with LocalService(config) as service:
        texts = succeeded(train_ranks(config, num_ranks))
    return config, read_json(RunFolder(config.run_path).report), texts, service.served


def assert_reports(report, readouts, classes=4):
    assert set(report["balanced_accuracy"]) == set(report["per_class_recall"]) == set(readouts)
    for name, recall in report["per_class_recall"].items():
        assert len(recall) == classes
        assert report["balanced_accuracy"][name] == pytest.approx(sum(recall) / classes)


@pytest.mark.parametrize(
    "settings",
    [
        {"sampler__sampling": "instance"},
        {"sampler__sampling": "class_balanced"},
        {"loss__class_weight": "effective_number"},
    ],
    ids=lambda settings: next(iter(settings.values())),
)
def test_a_baseline_uses_no_table_but_for_its_evaluation(tmp_path, tiny_shards, settings):
    config, report, _, served = trained(
        tmp_path, tiny_shards, loss__name="softmax", refresh__every=0, **settings
    )
    assert served == [STEPS]
    assert report["table_switches"] == [[STEPS, STEPS]]
    assert_reports(report, [*BY_TABLE, "blend", "head"])
    assert report["sampling"] == settings.get("sampler__sampling", "instance")
    names = {row["name"] for row in read_metrics(RunFolder(config.run_path).metrics)}
    assert "train/shape/softmax" in names
    assert "train/shape/between" not in names
    losses = list(series(config).values())
    assert sum(losses[-3:]) < sum(losses[:3])


STAGES = {
    "loss__warmup_share": 0.5,
    "loss__class_weight": "inverse",
    "sampler__warmup_sampling": "square_root",
    "sampler__max_clusters_per_class": 2,
    "train__classifier_share": 0.2,
    "evaluation__tau": 0.7,
    "evaluation__head_adjustment": 1.0,
    "evaluation__knn": 5,
    "evaluation__knn_balanced": 20,
    "evaluation__every": 7,
    "refresh__every": 2,
    "refresh__lag": 1,
}


@pytest.fixture(scope="module")
def staged(tmp_path_factory, tiny_shards):
    """A run with a warm-up of 4 steps, 4 of CLMLE, and 2 of the second classifier."""
    return trained(tmp_path_factory.mktemp("staged"), tiny_shards, **STAGES)


def test_a_run_goes_through_warm_up_clmle_and_classifier_stage(staged):
    config, report, _, served = staged
    assert served == [4, 6, STEPS]
    assert report["table_switches"] == [[4, 4], [7, 6], [STEPS, STEPS]]
    classifiers = ["blend", "head", "head_tau", "head_adjusted", "head_crt"]
    assert_reports(report, [*BY_TABLE, "knn", "knn_balanced", *classifiers])
    halfway = read_json(RunFolder(config.run_path).evaluation / "step_000007.json")
    # Its table is older than its weights, and the embeddings are those of the table.
    assert set(halfway["balanced_accuracy"]) == {*BY_TABLE, *classifiers}
    parts = {part: list(series(config, f"train/shape/{part}")) for part in PARTS}
    assert parts == {
        "softmax": list(range(1, 9)),
        "between": [5, 6, 7, 8],
        "within": [5, 6, 7, 8],
        "retrained": [9, 10],
    }


@pytest.mark.parametrize("stopped_after", [2, 8])
def test_stages_are_the_same_for_two_ranks_and_after_a_stop(
    staged, tmp_path, tiny_shards, stopped_after
):
    """Stopped within the warm-up, and at the border of the classifier stage."""
    config = tiny_config(tmp_path / "run", tiny_shards, train__steps=STEPS, **STAGES)
    with LocalService(config):
        # The ranks agree in the step after the signal.
        results = train_ranks(config, 2, prepare=sigterm_at, arguments=(1, stopped_after - 2))
        assert [code for code, _ in results] == [1, 1]
        assert checkpoint_steps(RunFolder(config.run_path)) == [stopped_after]
        succeeded(train_ranks(config, 2))
    assert series(config) == pytest.approx(series(staged[0]), rel=1e-5)
    expected = weights(staged[0], STEPS)
    for name, tensor in weights(config, STEPS).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5, msg=name)


BY_LABEL = {
    "loss__candidates": "table",
    "loss__mean_momentum": 0.9,
    "loss__cluster_prior": 1.0,
    "loss__isda_strength": 2.0,
    "sampler__sampling": "instance",
    "refresh__every": 4,
    "refresh__lag": 1,
}


def test_running_means_are_the_same_for_two_ranks_and_after_a_stop(tmp_path, tiny_shards):
    """Images drawn by their labels, two tasks; stopped between two switches, with moved means."""
    tasks = [{"name": "shape", "label": "shape"}, {"name": "odd", "label": "parity", "weight": 0.5}]
    settings = BY_LABEL | {"tasks": tasks}
    unbroken, report, _, served = trained(tmp_path / "unbroken", tiny_shards, **settings)
    assert served == [0, 4, 8, STEPS]
    assert report["table_switches"] == [[0, 0], [5, 4], [9, 8], [STEPS, STEPS]]
    config = tiny_config(tmp_path / "run", tiny_shards, train__steps=STEPS, **settings)
    with LocalService(config):
        results = train_ranks(config, 2, prepare=sigterm_at, arguments=(1, 5))
        assert [code for code, _ in results] == [1, 1]
        run = RunFolder(config.run_path)
        assert checkpoint_steps(run) == [7]
        saved = load_file(run.checkpoints / "step_000007" / "running_statistics.safetensors")
        table = store.load(run.tables, 4)
        for name in ("shape", "odd"):
            moved = np.abs(saved[f"{name}/means"] - table[name].centroids).max(axis=1)
            assert (moved > 1e-3).any(), "no image in two steps"
            np.testing.assert_allclose(np.linalg.norm(saved[f"{name}/means"], axis=1), 1, rtol=1e-5)
        succeeded(train_ranks(config, 1))
    assert series(config) == pytest.approx(series(unbroken), rel=1e-5)
    expected = weights(unbroken, STEPS)
    for name, tensor in weights(config, STEPS).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-5, msg=name)


def test_the_spread_is_the_same_where_zero_partitions_the_head(tmp_path, tiny_shards):
    whole, _, _, _ = trained(tmp_path / "whole", tiny_shards, **BY_LABEL)
    cut, _, _, _ = trained(
        tmp_path / "cut", tiny_shards, num_ranks=2, train__zero_stage=3, **BY_LABEL
    )
    assert series(cut) == pytest.approx(series(whole), rel=1e-4)
    plain, _, _, _ = trained(
        tmp_path / "plain", tiny_shards, **BY_LABEL | {"loss__isda_strength": 0.0}
    )
    name = "train/shape/softmax"
    assert series(plain, name)[STEPS] != pytest.approx(series(whole, name)[STEPS], rel=1e-3)


def test_two_tasks_share_a_backbone(tmp_path, tiny_shards):
    tasks = [{"name": "shape", "label": "shape"}, {"name": "odd", "label": "parity", "weight": 0.5}]
    config, report, _, served = trained(
        tmp_path, tiny_shards, num_ranks=2, tasks=tasks, evaluation__every=4
    )
    assert served == [0, 8, STEPS]
    readouts = [*BY_TABLE, "blend", "head"]
    names = [f"{task}/{readout}" for task in ("shape", "odd") for readout in readouts]
    assert set(report["balanced_accuracy"]) == set(names)
    assert len(report["per_class_recall"]["odd/ncm"]) == 2
    assert len(report["per_class_recall"]["shape/ncm"]) == 4
    total, shape, odd = (
        series(config, name) for name in ("train/loss", "train/shape/between", "train/odd/between")
    )
    for step in total:
        parts = [
            value
            + 0.1 * series(config, f"train/{task}/within")[step]
            + series(config, f"train/{task}/softmax")[step]
            for task, value in (("shape", shape[step]), ("odd", odd[step]))
        ]
        assert total[step] == pytest.approx(parts[0] + 0.5 * parts[1], rel=1e-4)
    evaluations = sorted(path.name for path in RunFolder(config.run_path).evaluation.iterdir())
    assert evaluations == ["step_000004.json", "step_000008.json", "step_000010.json"]
    assert list(series(config, "evaluation/balanced_accuracy/odd/ncm")) == [4, 8, STEPS]


def test_without_a_softmax_term_there_is_no_head(tmp_path, tiny_shards):
    _, report, _, _ = trained(
        tmp_path, tiny_shards, loss__weight_softmax=0.0, loss__candidates="table"
    )
    assert_reports(report, BY_TABLE)


def test_shards_without_a_test_split_train_too(tmp_path):
    shards = write_tiny_data(tmp_path / "data", test=()).folder
    config, report, _, served = trained(tmp_path, shards)
    assert served[-1] == STEPS
    assert report["balanced_accuracy"] == report["per_class_recall"] == {}
    assert math.isfinite(series(config)[STEPS])
    assert not RunFolder(config.run_path).evaluation.exists()
