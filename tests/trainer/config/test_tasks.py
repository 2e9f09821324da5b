"""Tasks come from the configuration or from the shards, and tables must be of them."""

import dataclasses
from functools import partial

import pytest

from data_shards.errors import ConfigError, DataError
from tests.helpers.cluster_tables import tiny_table
from trainer.config.builder import build_config
from trainer.config.sections import TaskConfig
from trainer.config.tasks import check_tables, evaluated_split, resolve_tasks, task_of_step

TWO = (TaskConfig(name="face", label="shape"), TaskConfig(name="odd", label="parity", weight=0.5))


def test_without_tasks_the_first_label_is_one(tiny_data):
    assert resolve_tasks(build_config({}), tiny_data) == (TaskConfig(name="shape", label="shape"),)


def test_tasks_of_the_configuration_are_taken_in_their_order(tiny_data):
    raw = [{"name": "face", "label": "shape"}, {"name": "odd", "label": "parity", "weight": 0.5}]
    assert resolve_tasks(build_config({"tasks": raw}), tiny_data) == TWO


def test_every_label_is_a_task_where_that_is_wanted(tiny_data):
    data = {"every_label": True}
    assert [task.label for task in resolve_tasks(build_config({"data": data}), tiny_data)] == [
        "shape",
        "parity",
    ]
    both = build_config({"data": data, "tasks": [{"name": "face", "label": "shape"}]})
    assert [task.name for task in resolve_tasks(both, tiny_data)] == ["face"]
    assert both.ignored_settings() == ["data.every_label is ignored: tasks are named"]
    odd = dataclasses.replace(tiny_data, label_columns=("shape", "no name"))
    with pytest.raises(ConfigError, match="'no name'"):
        resolve_tasks(build_config({"data": data}), odd)


def test_a_label_that_the_shards_lack_is_an_error_that_names_theirs(tiny_data):
    config = build_config({"tasks": [{"name": "face", "label": "identity"}]})
    with pytest.raises(ConfigError, match="no label 'identity'; they have shape, parity"):
        resolve_tasks(config, tiny_data)


def test_the_split_that_is_evaluated(tiny_data):
    by_default = build_config({})
    assert evaluated_split(by_default, tiny_data) == "test"
    untested = dataclasses.replace(tiny_data, splits={"train": tiny_data.split("train")})
    assert evaluated_split(by_default, untested) is None
    chosen = build_config({"evaluation": {"split": "validation"}})
    with pytest.raises(DataError, match="no split 'validation'; name one that it has: train, test"):
        evaluated_split(chosen, tiny_data)


def test_tasks_take_turns():
    assert [task_of_step(TWO, step).name for step in range(4)] == ["face", "odd", "face", "odd"]


check = partial(check_tables, embedding_dim=4, num_classes={"face": 3, "odd": 2})


def tables(**settings):
    return {
        "face": tiny_table(task="face", clusters_per_class=(3, 1, 2), **settings),
        "odd": tiny_table(task="odd", clusters_per_class=(2, 2)),
    }


def test_tables_that_fit_pass():
    check(tables())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (tables(dim=8), "task face has embedding dimension 8, the model has 4"),
        ({**tables(), "odd": tiny_table(task="odd")}, "task odd has 3 classes, the shards have 2"),
        ({"face": tables()["face"]}, "are of tasks face, this run has face, odd"),
        ({**tables(), "age": tables()["face"]}, "are of tasks age, face, odd"),
    ],
)
def test_tables_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        check(wrong)
