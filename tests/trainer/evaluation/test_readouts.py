"""Each read-out is the rule that it names."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from clustering.table.knc import knc_predict
from tests.helpers import reference_trainer as reference
from tests.helpers.cluster_tables import tiny_table
from tests.helpers.reference_clustering import unit_rows
from trainer.config.readout_names import READOUT_ORDER
from trainer.config.sections import EvaluationConfig
from trainer.evaluation.cluster_readouts import blended_scores
from trainer.evaluation.head_readouts import adjusted_logits
from trainer.evaluation.readout import ReadOut, TaskContext
from trainer.evaluation.registry import READ_OUTS, available_readouts, predict
from trainer.losses.outputs import TaskOutput
from trainer.models import build_network
from trainer.models.embed import embed_images

TABLE = tiny_table(clusters_per_class=(3, 1, 2), dim=4)
CONFIG = EvaluationConfig(num_neighbours=4, soft_scale=8.0)
COUNTS = np.array([30, 6, 1])
TRAINING = object()  # of the embeddings only their being there is asked


def output(num_queries=50, *, with_logits=True):
    rng = np.random.default_rng(5)
    embedding = torch.from_numpy(unit_rows(rng, num_queries, 4))
    logits = torch.from_numpy(rng.normal(size=(num_queries, 3)).astype(np.float32))
    return TaskOutput(embedding, embedding, embedding, logits if with_logits else None)


def small_network(classifier, retrained=None):
    return build_network(
        "tiny",
        channels=1,
        input_size=8,
        embedding_dim=4,
        num_classes={"shape": 3},
        classifier_input=classifier,
        retrained_input=retrained,
    ).eval()


def context(table, config, network=None, **more):
    head = (network or small_network("features")).head("shape")
    return TaskContext(head=head, table=table, config=config, **({"class_counts": COUNTS} | more))


@pytest.mark.parametrize("table", [TABLE, None])
@pytest.mark.parametrize("tau", [0.0, 0.5])
@pytest.mark.parametrize("adjustment", [0.0, 1.0])
@pytest.mark.parametrize("retrained", [None, "features", "embedding"])
@pytest.mark.parametrize("classifier", [None, "features", "cosine"])
def test_the_names_are_those_of_the_predictions(table, adjustment, tau, classifier, retrained):
    network = small_network(classifier, retrained)
    made = embed_images(network, np.zeros((50, 8, 8, 1), np.uint8))["shape"]
    config = replace(CONFIG, tau=tau, head_adjustment=adjustment)
    of_task = context(table, config, network)
    predictions = predict(of_task, made)
    assert list(predictions) == available_readouts(of_task)
    for predicted in predictions.values():
        assert predicted.shape == (50,)
        assert np.issubdtype(predicted.dtype, np.integer)


@pytest.mark.parametrize("classifier", ["features", "cosine"])
def test_what_is_wanted_is_what_all_would_say(classifier):
    network = small_network(classifier, "features")
    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 1)).astype(np.uint8)
    made = embed_images(network, images)["shape"]
    config = replace(CONFIG, tau=0.5, head_adjustment=1.0)
    of_task = context(TABLE, config, network)
    every = predict(of_task, made)
    assert list(every) == available_readouts(of_task)
    for name, expected in every.items():
        found = predict(of_task, made, [name])
        assert list(found) == [name]
        assert found[name].tolist() == expected.tolist()
    some = list(every)[1::2]
    assert list(predict(of_task, made, some)) == some


@pytest.mark.parametrize(
    ("name", "spared"),
    [
        ("head", {"knc_predict", "nearest_class_mean_scores", "adjusted_logits"}),
        ("ncm", {"knc_predict", "blended_scores", "adjusted_logits"}),
        ("knc_soft", {"nearest_class_mean_scores", "blended_scores", "adjusted_logits"}),
        ("blend", {"nearest_class_mean_scores", "adjusted_logits"}),
    ],
)
def test_nothing_is_computed_for_what_is_not_wanted(monkeypatch, name, spared):
    for function in spared:
        module = "head_readouts" if function == "adjusted_logits" else "cluster_readouts"
        monkeypatch.delattr(f"trainer.evaluation.{module}.{function}")
    config = replace(CONFIG, head_adjustment=1.0)
    assert list(predict(context(TABLE, config), output(), [name])) == [name]


def test_a_table_gives_four_read_outs_and_classifiers_further_ones():
    def readouts(*of_task, **more):
        return available_readouts(context(*of_task, **more))

    by_table = ["knc_margin", "knc_soft", "knc_balanced", "ncm"]
    assert readouts(TABLE, CONFIG, small_network("features")) == [*by_table, "blend", "head"]
    assert readouts(TABLE, CONFIG, small_network("cosine")) == [*by_table, "head"]
    assert readouts(TABLE, CONFIG, small_network(None)) == by_table
    assert readouts(None, CONFIG, small_network("features")) == ["head"]
    assert readouts(None, CONFIG, small_network(None)) == []
    every = replace(CONFIG, tau=1.0, head_adjustment=1.0, knn=1, knn_balanced=1)
    heads = ["head", "head_tau", "head_adjusted", "head_crt"]
    assert readouts(None, every, small_network("features", "features")) == heads
    cosine = small_network("cosine", "features")
    assert readouts(None, every, cosine, training=TRAINING) == [
        *("knn", "knn_balanced", "head", "head_crt")
    ]


@pytest.mark.parametrize("classifier", ["features", "embedding"])
def test_tau_evens_out_the_norms_of_the_classes_weights(classifier):
    network = small_network(classifier)
    head = network.head("shape")
    with torch.no_grad():
        head.classifier.weight.mul_(torch.tensor([[1.0], [10.0], [100.0]]))
        head.classifier.bias.zero_()
    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 1)).astype(np.uint8)
    made = embed_images(network, images)["shape"]
    rows = made.features if classifier == "features" else made.embedding
    weights = head.classifier.weight.detach()
    for tau in (0.5, 1.0):
        expected = [[float(row @ w / w.norm() ** tau) for w in weights] for row in rows]
        got = head.tau_logits(made, tau)
        torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-3, atol=1e-4)
    # tau 0 is the head itself, but for the biases, which are 0 here.
    assert torch.equal(head.tau_logits(made, 0.0).argmax(dim=1), made.logits.argmax(dim=1))


@pytest.mark.parametrize("rule", ["margin", "soft", "balanced"])
def test_knc_uses_the_settings_of_the_evaluation(rule):
    queries = output().embedding.numpy()

    def rule_with(**settings):
        found = knc_predict(
            queries, TABLE.centroids, TABLE.class_of, num_classes=3, rules=[rule], **settings
        )
        return found.classes[rule]

    predicted = predict(context(TABLE, CONFIG), output())[f"knc_{rule}"]
    assert predicted.tolist() == rule_with(num_neighbours=4, scale=8.0).tolist()
    other = {"num_neighbours": 4, "scale": 0.5} if rule == "balanced" else {"num_neighbours": 1}
    assert predicted.tolist() != rule_with(**{"scale": 8.0, **other}).tolist()


def test_the_blend_is_the_product_of_the_heads_and_the_clusters_probabilities():
    made = output()
    votes = knc_predict(
        made.embedding.numpy(),
        TABLE.centroids,
        TABLE.class_of,
        num_classes=3,
        rules=["balanced"],
        num_neighbours=4,
        scale=8.0,
        scored=["balanced"],
    ).scores["balanced"]
    expected = torch.tensor(reference.blended(made.logits, torch.from_numpy(votes)))
    torch.testing.assert_close(blended_scores(made.logits, torch.from_numpy(votes)), expected)
    predictions = predict(context(TABLE, CONFIG), made)
    assert predictions["blend"].tolist() == expected.argmax(dim=1).tolist()
    assert (predictions["blend"] != predictions["head"]).any()
    assert (predictions["blend"] != predictions["knc_balanced"]).any()


def test_the_blend_never_takes_a_class_without_clusters():
    votes = torch.tensor([[0.0, -torch.inf, 1.0]])
    scores = blended_scores(torch.tensor([[0.0, 50.0, 1.0]]), votes)
    assert scores.argmax() == 2
    assert torch.isfinite(scores[0, [0, 2]]).all()


def test_ncm_takes_the_class_of_the_nearest_mean():
    predicted = predict(context(TABLE, CONFIG), output())["ncm"]
    for query, class_ in zip(output().embedding.numpy(), predicted, strict=True):
        cosines = [float(query @ mean) for mean in TABLE.class_means()]
        assert class_ == int(np.argmax(cosines))


def test_the_head_takes_the_largest_logit():
    predicted = predict(context(None, CONFIG), output())["head"]
    assert predicted.tolist() == [int(np.argmax(row)) for row in output().logits.numpy()]


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("counts", [[30, 6, 1], [7, 7, 7], [5, 0, 1]])
def test_the_adjusted_head_takes_the_classes_shares_out_of_the_logits(strength, counts):
    made, config = output(), replace(CONFIG, head_adjustment=strength)
    expected = torch.tensor(reference.logit_adjusted(made.logits, counts, strength))
    torch.testing.assert_close(adjusted_logits(made.logits, np.array(counts), strength), expected)
    predictions = predict(context(None, config, class_counts=np.array(counts)), made)
    assert predictions["head_adjusted"].tolist() == expected.argmax(dim=1).tolist()
    same = (predictions["head_adjusted"] == predictions["head"]).all()
    assert same == (counts == [7, 7, 7])


def test_the_adjusted_head_never_takes_a_class_without_images():
    adjusted = adjusted_logits(torch.tensor([[9.0, 0.0, 0.0]]), np.array([0, 9, 1]), 1.0)
    assert adjusted.argmax() == 2
    assert torch.isfinite(adjusted[0, 1:]).all()


def test_half_precision_is_read_out_too():
    plain = output()
    half = TaskOutput(*(tensor.bfloat16() for tensor in plain if tensor is not None))
    predicted = predict(context(TABLE, CONFIG), half)
    for name, expected in predict(context(TABLE, CONFIG), plain).items():
        assert (predicted[name] == expected).mean() > 0.9, name


def test_the_names_that_need_no_torch_are_in_the_registry_in_that_order():
    assert [name for name in READ_OUTS if name in READOUT_ORDER] == list(READOUT_ORDER)
    assert all(name == readout.name for name, readout in READ_OUTS.items())


def test_a_read_out_that_uses_what_it_does_not_need_is_found_out(monkeypatch):
    careless = ReadOut(name="ncm", needs=frozenset(), predict=READ_OUTS["ncm"].predict)
    monkeypatch.setitem(READ_OUTS, "ncm", careless)
    with pytest.raises(AssertionError, match="does not list in `needs`"):
        predict(context(None, CONFIG), output())
