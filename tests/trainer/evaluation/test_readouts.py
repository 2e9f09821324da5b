"""Each read-out is the rule that it names."""

import numpy as np
import pytest
import torch

from clustering.knc import knc_predict
from tests.helpers.cluster_tables import tiny_table
from tests.helpers.reference_clustering import unit_rows
from trainer.evaluation.readouts import predict, readouts
from trainer.models.network import TaskOutput
from trainer.sections import EvaluationConfig

TABLE = tiny_table(clusters_per_class=(3, 1, 2), dim=4)
CONFIG = EvaluationConfig(num_neighbours=4, soft_scale=8.0)


def output(num_queries=50, *, with_logits=True):
    rng = np.random.default_rng(5)
    embedding = torch.from_numpy(unit_rows(rng, num_queries, 4))
    logits = torch.from_numpy(rng.normal(size=(num_queries, 3)).astype(np.float32))
    return TaskOutput(embedding, embedding, logits if with_logits else None)


@pytest.mark.parametrize("table", [TABLE, None])
@pytest.mark.parametrize("has_head", [True, False])
def test_the_names_are_those_of_the_predictions(table, has_head):
    predictions = predict(output(with_logits=has_head), table, CONFIG)
    assert list(predictions) == readouts(table, has_head=has_head)
    for predicted in predictions.values():
        assert predicted.shape == (50,)
        assert np.issubdtype(predicted.dtype, np.integer)


def test_a_table_gives_four_read_outs_and_a_head_one():
    by_table = ["knc_margin", "knc_soft", "knc_balanced", "ncm"]
    assert readouts(TABLE, has_head=True) == [*by_table, "head"]
    assert readouts(TABLE, has_head=False) == by_table
    assert readouts(None, has_head=True) == ["head"]
    assert readouts(None, has_head=False) == []


@pytest.mark.parametrize("rule", ["margin", "soft", "balanced"])
def test_knc_uses_the_settings_of_the_evaluation(rule):
    queries = output().embedding.numpy()

    def rule_with(**settings):
        return knc_predict(
            queries, TABLE.centroids, TABLE.class_of, num_classes=3, rule=rule, **settings
        )

    predicted = predict(output(), TABLE, CONFIG)[f"knc_{rule}"]
    assert predicted.tolist() == rule_with(num_neighbours=4, scale=8.0).tolist()
    other = {"num_neighbours": 4, "scale": 0.5} if rule == "balanced" else {"num_neighbours": 1}
    assert predicted.tolist() != rule_with(**{"scale": 8.0, **other}).tolist()


def test_ncm_takes_the_class_of_the_nearest_mean():
    predicted = predict(output(), TABLE, CONFIG)["ncm"]
    for query, class_ in zip(output().embedding.numpy(), predicted, strict=True):
        cosines = [float(query @ mean) for mean in TABLE.class_means()]
        assert class_ == int(np.argmax(cosines))


def test_the_head_takes_the_largest_logit():
    predicted = predict(output(), None, CONFIG)["head"]
    assert predicted.tolist() == [int(np.argmax(row)) for row in output().logits.numpy()]


def test_half_precision_is_read_out_too():
    plain = output()
    half = TaskOutput(*(tensor.bfloat16() for tensor in plain if tensor is not None))
    predicted = predict(half, TABLE, CONFIG)
    for name, expected in predict(plain, TABLE, CONFIG).items():
        assert (predicted[name] == expected).mean() > 0.9, name
