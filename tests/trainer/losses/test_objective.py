"""The objective is the pure losses, with the right clusters, labels, margins and weights."""

import pytest
import torch

from tests.helpers import reference_trainer as reference
from tests.helpers.tiny_tables import table_of
from trainer.config.readout_names import READOUT_ORDER
from trainer.config.sections import TaskConfig
from trainer.losses.batch import TaskTable
from trainer.losses.clmle import (
    ClmleSettings,
    candidate_cosines,
    clmle_loss,
)
from trainer.losses.margins import rare_class_margins
from trainer.losses.objective import Objective, TaskTarget
from trainer.losses.outputs import TaskOutput
from trainer.losses.registry import LOSSES
from trainer.losses.softmax import class_weights, log_priors, softmax_loss
from trainer.runtime.world import World

SHAPE = TaskConfig(name="shape", label="shape")
PARITY = TaskConfig(name="parity", label="parity", weight=0.25)
NUM_CLASSES = {"shape": 4, "parity": 2}
CPU = torch.device("cpu")
NUM_STEPS = 100
SAMPLE_IDS = [0, 44, 20, 21, 33, 3, 41, 0]


@pytest.fixture(scope="module")
def sample_ids(train_index):
    return train_index.ids[SAMPLE_IDS]


@pytest.fixture(scope="module")
def tables(train_index):
    return {name: table_of(train_index, name, seed=n) for n, name in enumerate(NUM_CLASSES)}


@pytest.fixture
def outputs():
    generator = torch.Generator().manual_seed(1)

    def output(num_classes):
        features = torch.randn(len(SAMPLE_IDS), 8, generator=generator).requires_grad_()
        embedding = torch.nn.functional.normalize(features, dim=1)
        logits = torch.randn(len(SAMPLE_IDS), num_classes, generator=generator)
        return TaskOutput(embedding, features, features, logits)

    return {name: output(count) for name, count in NUM_CLASSES.items()}


@pytest.fixture
def objective(tiny_data, train_index, tables):
    def objective(*, tasks=(SHAPE,), name="clmle", **loss):
        targets = {
            task.name: TaskTarget(
                labels=train_index.labels(task.label),
                class_counts=tiny_data.class_counts("train", task.label),
                weight=task.weight,
            )
            for task in tasks
        }
        made = Objective(
            LOSSES[name].settings(**loss),
            targets,
            train_index.ids,
            num_steps=NUM_STEPS,
            device=CPU,
        )
        made.use_tables({task.name: tables[task.name] for task in tasks})
        return made

    return objective


def cluster_of(table, sample_id):
    return next(j for j in range(table.num_clusters) if sample_id in table.members(j))


def clmle(output, table, sample_ids, grown, *, loss, between=None, means=None):
    """The CLMLE terms from the pure functions."""
    clusters = torch.tensor([cluster_of(table, i) for i in sample_ids.tolist()])
    centroids, class_of = torch.tensor(table.centroids), torch.tensor(table.class_of)
    rows, cosine, which = candidate_cosines(
        output.embedding,
        clusters,
        centroids if means is None else means,
        candidates=loss.candidates,
        momentum=loss.mean_momentum,
    )
    return clmle_loss(
        rows,
        cosine,
        class_of[which],
        scale=loss.scale,
        margin_between_rad=grown * (loss.margin_between if between is None else between),
        margin_within_rad=grown * loss.margin_within,
        weight_within=loss.weight_within,
        log_prior=loss.cluster_prior * torch.tensor(table.cluster_sizes)[which].log(),
    )


def cross_entropy(output, index, column, sample_ids, weights=None):
    label_of = dict(zip(index.ids.tolist(), index.labels(column).tolist(), strict=True))
    labels = torch.tensor([label_of[i] for i in sample_ids.tolist()])
    return softmax_loss(output.logits, labels, weights)


def test_each_sample_finds_its_cluster(tables, train_index):
    table = TaskTable.of(tables["shape"], CPU)
    found = table.clusters(train_index.ids).tolist()
    assert found == [cluster_of(tables["shape"], i) for i in train_index.ids.tolist()]
    assert torch.equal(table.centroids, torch.tensor(tables["shape"].centroids))


@pytest.mark.parametrize("candidates", ["batch", "table"])
@pytest.mark.parametrize(("step", "grown"), [(0, 0.0), (10, 0.25), (40, 1.0), (99, 1.0)])
def test_clmle_is_the_pure_loss_with_grown_margins(
    objective, outputs, tables, train_index, sample_ids, candidates, step, grown
):
    settings = {
        "candidates": candidates,
        "margin_anneal": 0.4,
        "weight_within": 0.3,
        "weight_softmax": 0.5,
        "scale": 7.0,
    }
    total, parts, _ = objective(**settings)(outputs, sample_ids, step)
    terms = clmle(
        outputs["shape"], tables["shape"], sample_ids, grown, loss=ClmleSettings(**settings)
    )
    head = cross_entropy(outputs["shape"], train_index, "shape", sample_ids)
    assert parts.keys() == {"loss", "shape/between", "shape/within", "shape/softmax"}
    torch.testing.assert_close(parts["shape/between"], terms.between.detach())
    torch.testing.assert_close(parts["shape/within"], terms.within.detach())
    torch.testing.assert_close(parts["shape/softmax"], head)
    torch.testing.assert_close(total.detach(), (terms.loss + 0.5 * head).detach())
    assert torch.equal(parts["loss"], total.detach())
    assert not any(value.requires_grad for value in parts.values())


def test_the_gradient_reaches_the_features(objective, outputs, sample_ids):
    total = objective()(outputs, sample_ids, 50).loss
    (gradient,) = torch.autograd.grad(total, outputs["shape"].features)
    assert gradient.abs().sum() > 0
    assert torch.isfinite(gradient).all()


def test_tasks_are_summed_by_their_weights(objective, outputs, sample_ids):
    both, parts, _ = objective(tasks=(SHAPE, PARITY))(outputs, sample_ids, 50)
    shape, *_ = objective(tasks=(SHAPE,))(outputs, sample_ids, 50)
    unweighted = TaskConfig(name="parity", label="parity")
    parity, *_ = objective(tasks=(unweighted,))(outputs, sample_ids, 50)
    torch.testing.assert_close(both, shape + 0.25 * parity)
    names = {f"{task}/{part}" for task in NUM_CLASSES for part in ("between", "within", "softmax")}
    assert parts.keys() == names | {"loss"}


def test_softmax_alone_needs_no_tables_and_has_weight_one(
    objective, outputs, train_index, sample_ids
):
    made = objective(name="softmax")
    made.use_tables({})
    total, parts, comparisons = made(outputs, sample_ids, 50)
    assert parts.keys() == {"loss", "shape/softmax"}
    expected = cross_entropy(outputs["shape"], train_index, "shape", sample_ids)
    torch.testing.assert_close(total, expected)
    assert comparisons == {}


@pytest.mark.parametrize("kind", ["inverse", "effective_number"])
@pytest.mark.parametrize("name", ["softmax", "clmle"])
def test_classes_are_weighed_by_their_counts(
    objective, outputs, tiny_data, train_index, sample_ids, kind, name
):
    made = objective(name=name, class_weight=kind, class_weight_beta=0.9)
    _, parts, _ = made(outputs, sample_ids, 50)
    weights = class_weights(tiny_data.class_counts("train", "shape"), kind, beta=0.9)
    expected = cross_entropy(outputs["shape"], train_index, "shape", sample_ids, weights)
    plain = cross_entropy(outputs["shape"], train_index, "shape", sample_ids)
    torch.testing.assert_close(parts["shape/softmax"], expected)
    assert not torch.isclose(expected, plain)


def test_without_a_head_clmle_stands_alone(objective, outputs, tables, sample_ids):
    bare = {name: output._replace(logits=None) for name, output in outputs.items()}
    total, parts, _ = objective(weight_softmax=0.0)(bare, sample_ids, 99)
    terms = clmle(bare["shape"], tables["shape"], sample_ids, 1.0, loss=ClmleSettings())
    assert parts.keys() == {"loss", "shape/between", "shape/within"}
    torch.testing.assert_close(total, terms.loss)


def test_new_tables_replace_the_old(objective, outputs, train_index, sample_ids):
    made = objective(candidates="table")
    before, *_ = made(outputs, sample_ids, 50)
    newer = table_of(train_index, "shape", version=8, largest=2)
    made.use_tables({"shape": newer})
    after, _, comparisons = made(outputs, sample_ids, 50)
    assert not torch.isclose(before, after)
    assert len(comparisons["shape"].class_of) == newer.num_clusters


ALONE = World(rank=0, size=1, local_rank=0, device=CPU)


@pytest.mark.parametrize("candidates", ["batch", "table"])
def test_running_means_move_after_a_step_and_start_anew_with_a_table(
    objective, outputs, tables, sample_ids, candidates
):
    settings = {"candidates": candidates, "mean_momentum": 0.6, "cluster_prior": 0.5}
    made = objective(**settings)
    table, output = tables["shape"], outputs["shape"]
    means = torch.tensor(table.centroids)
    clusters = [cluster_of(table, i) for i in sample_ids.tolist()]
    for _ in range(2):  # steps of two micro-batches, which both see the means of before
        for _ in range(2):
            _, parts, _ = made(outputs, sample_ids, 99)
            terms = clmle(
                output, table, sample_ids, 1.0, loss=ClmleSettings(**settings), means=means
            )
            torch.testing.assert_close(parts["shape/between"], terms.between.detach())
            torch.testing.assert_close(parts["shape/within"], terms.within.detach())
        made.follow_step(ALONE.gather)
        step = (output.embedding.detach(), clusters)
        means = reference.running_means(means, [step], 0.6)
    torch.testing.assert_close(made.state()["shape/means"], means)

    again = objective(**settings)
    again.restore(made.state())
    assert torch.equal(again(outputs, sample_ids, 99)[0], made(outputs, sample_ids, 99)[0])
    assert made.state()["shape/means"] is not again.state()["shape/means"]
    made.use_tables(tables)
    assert torch.equal(made.state()["shape/means"], torch.tensor(table.centroids))


def test_the_softmax_term_stands_for_all_that_lies_around_an_image(
    objective, outputs, tables, train_index, sample_ids
):
    settings = {
        "isda_strength": 2.0,
        "warmup_share": 0.2,
        "candidates": "table",
        "mean_momentum": 0.6,
    }
    made = objective(**settings)
    table, output = tables["shape"], outputs["shape"]
    generator = torch.Generator().manual_seed(2)
    slopes = torch.randn(4, 8, generator=generator)
    outputs = {"shape": output._replace(logit_slopes=slopes)}
    plain = cross_entropy(output, train_index, "shape", sample_ids)
    _, parts, _ = made(outputs, sample_ids, 60)  # nothing is known of the spread yet
    torch.testing.assert_close(parts["shape/softmax"], plain)

    clusters = [cluster_of(table, i) for i in sample_ids.tolist()]
    means, steps = torch.tensor(table.centroids), []
    for _ in range(2):  # offsets are those from the means of before each step
        made.follow_step(ALONE.gather)
        steps.append((outputs["shape"].embedding.detach(), means[clusters]))
        means = reference.running_means(means, [(steps[-1][0], clusters)], 0.6)
        moved = torch.randn(output.embedding.shape, generator=generator)
        moved = torch.nn.functional.normalize(moved, dim=1)
        outputs = {"shape": output._replace(logit_slopes=slopes, embedding=moved)}
        made(outputs, sample_ids, 60)
    covariance = reference.running_covariance(steps, 0.99)
    labels = table.class_of[clusters].tolist()
    offsets = reference.isda_offsets(slopes, covariance, labels)
    for at, strength in ((20, 0.0), (60, 1.0)):
        _, parts, _ = made(outputs, sample_ids, at)
        spread = output._replace(logits=output.logits + strength * offsets)
        expected = cross_entropy(spread, train_index, "shape", sample_ids)
        torch.testing.assert_close(parts["shape/softmax"], expected)

    saved = made.state()
    assert set(saved) == {"shape/means", "shape/covariance"}
    again = objective(**settings)
    again.restore(saved)
    assert torch.equal(again(outputs, sample_ids, 60)[0], made(outputs, sample_ids, 60)[0])
    made.use_tables(tables)  # the ways in which images differ outlive a table
    assert torch.equal(made.state()["shape/covariance"], saved["shape/covariance"])


def test_the_clusters_of_a_micro_batch_are_looked_up_once_a_task(
    objective, outputs, sample_ids, monkeypatch
):
    looked_up, clusters = [], TaskTable.clusters

    def counted(table, ids):
        looked_up.append(table)
        return clusters(table, ids)

    monkeypatch.setattr(TaskTable, "clusters", counted)
    objective(tasks=(SHAPE, PARITY), mean_momentum=0.6)(outputs, sample_ids, 99)
    assert len(looked_up) == 2


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_without_momentum_or_with_all_of_it_nothing_is_kept(
    objective, outputs, tables, sample_ids, momentum
):
    made = objective(candidates="table", mean_momentum=momentum)
    before, *_ = made(outputs, sample_ids, 50)
    made.follow_step(ALONE.gather)
    assert made.state() == {}
    made.restore({"shape/means": torch.zeros(2, 2)})
    assert torch.equal(made(outputs, sample_ids, 50)[0], before)


def test_candidates_are_the_clusters_that_were_compared_with(
    objective, outputs, tables, sample_ids
):
    value = objective()(outputs, sample_ids, 0)
    present = sorted({cluster_of(tables["shape"], i) for i in sample_ids.tolist()})
    expected = tables["shape"].class_of[present].tolist()
    assert value.comparisons["shape"].class_of.tolist() == expected


def test_before_clmle_begins_there_is_only_the_softmax_term_and_no_table(
    objective, outputs, tables, train_index, sample_ids
):
    made = objective(warmup_share=0.3, margin_anneal=0.4)
    made.use_tables({})
    total, parts, comparisons = made(outputs, sample_ids, 29)
    assert parts.keys() == {"loss", "shape/softmax"}
    expected = cross_entropy(outputs["shape"], train_index, "shape", sample_ids)
    torch.testing.assert_close(total, expected)
    assert comparisons == {}
    made.use_tables({"shape": tables["shape"]})
    _, parts, _ = made(outputs, sample_ids, 30)
    assert "shape/between" in parts
    factors = [made.margin_factor(step) for step in (0, 30, 50, 70, 99)]
    assert factors == pytest.approx([0, 0, 0.5, 1, 1])


def test_other_losses_have_no_warm_up(objective, outputs, sample_ids):
    made = objective(name="triplet")
    _, parts, _ = made(outputs, sample_ids, 0)
    assert parts.keys() == {"loss", "shape/triplet"}
    assert objective(name="arcface").margin_factor(25) == 0.5


def test_class_weights_can_wait(objective, outputs, sample_ids):
    deferred = objective(class_weight="inverse", reweight_from=0.8)
    at_once = objective(class_weight="inverse")
    plain = objective()
    for step, twin in ((79, plain), (80, at_once)):
        _, got, _ = deferred(outputs, sample_ids, step)
        _, expected, _ = twin(outputs, sample_ids, step)
        assert torch.equal(got["shape/softmax"], expected["shape/softmax"])


def test_rare_classes_may_have_larger_margins(objective, outputs, tables, tiny_data, sample_ids):
    labels = tables["shape"].class_of[[cluster_of(tables["shape"], i) for i in sample_ids]]
    counts = tiny_data.class_counts("train", "shape")
    margins = rare_class_margins(counts, 0.35, exponent=0.3)[torch.tensor(labels)]
    _, parts, _ = objective(margin_rare_exponent=0.3)(outputs, sample_ids, 50)
    expected = clmle(
        outputs["shape"], tables["shape"], sample_ids, 1.0, loss=ClmleSettings(), between=margins
    )
    torch.testing.assert_close(parts["shape/between"], expected.between.detach())
    torch.testing.assert_close(parts["shape/within"], expected.within.detach())


@pytest.mark.parametrize("name", ["softmax", "clmle"])
def test_logits_are_adjusted_by_the_class_shares(
    objective, outputs, tiny_data, train_index, sample_ids, name
):
    shares = log_priors(tiny_data.class_counts("train", "shape"))
    output = outputs["shape"]
    adjusted = output._replace(logits=output.logits + 0.5 * shares)
    expected = cross_entropy(adjusted, train_index, "shape", sample_ids)
    _, parts, _ = objective(name=name, logit_adjustment=0.5)(outputs, sample_ids, 50)
    torch.testing.assert_close(parts["shape/softmax"], expected)


def test_a_loss_is_registered_under_its_own_name():
    for name, spec in LOSSES.items():
        assert spec.name == name == spec.settings().name
        assert spec.needs_table <= (spec.sampling == "cluster"), name
        assert spec.readout in READOUT_ORDER, name
