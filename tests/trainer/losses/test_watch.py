"""The watch measures dispersion and plateau of each task, and warns of a collapse in words."""

import logging

import pytest
import torch

from trainer.losses.batch import ClusterComparison
from trainer.losses.clmle import ClmleSettings, clmle_loss
from trainer.losses.collapse import CollapseWatch, Observed
from trainer.state.snapshot import NetworkDescription

LOSS = ClmleSettings(scale=8.0, margin_between=0.4, margin_within=0.2, weight_within=0.5)
CLASSES = torch.tensor([0, 0, 1, 1, 1, 2])
"""Class of each of the clusters that the loss compares with."""
OWN = torch.arange(6)
"""Cluster of each image."""
PRIORS = [None, torch.tensor([90.0, 5, 40, 3, 3, 20]).log()]


def point(num_images=6):
    """Embeddings that are all the same."""
    rows = torch.zeros(num_images, 4)
    rows[:, 0] = 1
    return rows


def spread_out():
    return torch.cat([torch.eye(4), -torch.eye(4)])


def terms_of_a_collapse(margin_factor, log_prior=None, margin=LOSS.margin_between):
    """What the loss really is when all embeddings and centroids are one point."""
    return clmle_loss(
        OWN,
        point() @ point().T,
        CLASSES,
        scale=LOSS.scale,
        margin_between_rad=margin * margin_factor,
        margin_within_rad=LOSS.margin_within * margin_factor,
        weight_within=LOSS.weight_within,
        log_prior=log_prior,
    )


def output(embedding, projection=None):
    projection = embedding if projection is None else projection
    return Observed(embedding, projection)


def measure(  # noqa: PLR0913
    watch,
    embeddings,
    *,
    share=1.0,
    task="identity",
    margin_factor=1.0,
    log_prior=None,
    margin=LOSS.margin_between,
):
    """Measure embeddings whose loss is a share of that of a collapse."""
    loss = share * terms_of_a_collapse(margin_factor, log_prior, margin).loss
    comparison = ClusterComparison(
        loss=loss,
        rows=OWN,
        class_of=CLASSES,
        log_prior=log_prior,
        scale=LOSS.scale,
        margin_between_rad=margin * margin_factor,
        margin_within_rad=LOSS.margin_within * margin_factor,
        weight_within=LOSS.weight_within,
    )
    return watch.measure({task: output(embeddings, spread_out())}, {task: comparison})


@pytest.mark.parametrize("margin", [0.4, torch.tensor([0.4, 0.4, 0.6, 0.6, 0.6, 1.3])])
@pytest.mark.parametrize("log_prior", PRIORS, ids=["alike", "by size"])
@pytest.mark.parametrize("margin_factor", [0.0, 0.5, 1.0])
def test_the_plateau_is_the_loss_of_a_collapse(margin_factor, log_prior, margin):
    watch, settings = CollapseWatch(), {"log_prior": log_prior, "margin": margin}
    measured = measure(watch, point(), margin_factor=margin_factor, **settings)
    expected = float(terms_of_a_collapse(margin_factor, **settings).loss)
    assert measured["train/identity/plateau"] == pytest.approx(expected, rel=1e-3)


def test_dispersion_goes_from_0_to_1():
    watch = CollapseWatch()
    assert measure(watch, point())["embedding/identity/dispersion"] == pytest.approx(0.0, abs=1e-6)
    assert measure(watch, spread_out())["embedding/identity/dispersion"] == pytest.approx(1.0)


@pytest.mark.parametrize("log_prior", PRIORS, ids=["alike", "by size"])
def test_a_collapse_is_told_once_with_the_task_and_the_remedy(caplog, log_prior):
    watch = CollapseWatch()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            measure(watch, point(), log_prior=log_prior)
        assert caplog.records == []
        for _ in range(3):
            measure(watch, point(), log_prior=log_prior)
    (record,) = caplog.records
    assert record.getMessage().startswith("task identity: the embeddings have collapsed")
    assert "loss.margin_anneal" in record.getMessage()


@pytest.mark.parametrize(
    ("embeddings", "factor"), [(spread_out(), 1.0), (point(), 0.5)], ids=["dispersed", "low loss"]
)
def test_healthy_training_is_left_in_peace(caplog, embeddings, factor):
    watch = CollapseWatch()
    for _ in range(10):
        measure(watch, embeddings, share=factor)
    assert caplog.records == []


def test_each_task_has_a_detector_of_its_own(caplog):
    watch = CollapseWatch()
    for _ in range(5):
        measure(watch, point(), task="smiling")
        measure(watch, spread_out(), task="age")
    (record,) = caplog.records
    assert "task smiling" in record.getMessage()


def test_a_task_without_clusters_is_watched_by_its_dispersion_alone(caplog):
    watch = CollapseWatch()
    for _ in range(3):
        measured = watch.measure({"identity": output(point())}, {})
    assert set(measured.values()) == {0.0}
    assert list(measured) == [
        "embedding/identity/dispersion",
        "embedding/identity/dispersion_before_norm",
    ]
    assert "have collapsed to one point" in caplog.text


@pytest.mark.parametrize("backbone", ["tiny", "iresnet18"])
@pytest.mark.parametrize("collapsed", [True, False])
def test_a_network_that_sees_no_difference_is_noticed_behind_its_batch_norm(
    caplog, backbone, collapsed
):
    network = NetworkDescription(
        backbone=backbone,
        channels=1,
        input_size=32,
        embedding_dim=8,
        classifier_input="features",
        num_classes={"identity": 3},
    ).build()
    noise = torch.randn(16, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    images = noise[:1] + 1e-4 * noise if collapsed else noise
    observed = {
        task: Observed(output.embedding, output.projection)
        for task, output in network(images).items()
    }
    watch = CollapseWatch()
    for _ in range(3):
        measured = watch.measure(observed, {})
    assert ("have collapsed" in caplog.text) == collapsed
    assert (measured["embedding/identity/dispersion_before_norm"] < 0.02) == collapsed
    assert measured["embedding/identity/dispersion"] > 0.5, "which BatchNorm sees to"
