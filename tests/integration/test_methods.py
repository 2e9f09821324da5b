"""Baselines, tasks, losses: each trains to the end and reports every read-out."""

import math

import pytest

from data_shards.atomic import read_json
from tests.helpers.local_service import LocalService
from tests.helpers.tiny_data import write_tiny_data
from tests.helpers.training import series, succeeded, tiny_config, train_ranks
from trainer.metrics import read_metrics
from trainer.run_folder import RunFolder

pytestmark = pytest.mark.slow

BY_TABLE = ["knc_margin", "knc_soft", "knc_balanced", "ncm"]
STEPS = 10


def trained(folder, shards, *, num_ranks=1, **settings):
    """The report of a training of 10 steps, and what its ranks wrote."""
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
    assert_reports(report, [*BY_TABLE, "head"])
    assert report["sampling"] == settings.get("sampler__sampling", "instance")
    names = {row["name"] for row in read_metrics(RunFolder(config.run_path).metrics)}
    assert "train/shape/softmax" in names
    assert "train/shape/between" not in names
    losses = list(series(config).values())
    assert sum(losses[-3:]) < sum(losses[:3])


def test_two_tasks_share_a_backbone(tmp_path, tiny_shards):
    tasks = [{"name": "shape", "label": "shape"}, {"name": "odd", "label": "parity", "weight": 0.5}]
    config, report, _, served = trained(
        tmp_path, tiny_shards, num_ranks=2, tasks=tasks, evaluation__every=4
    )
    assert served == [0, 8, STEPS]
    readouts = [*BY_TABLE, "head"]
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
