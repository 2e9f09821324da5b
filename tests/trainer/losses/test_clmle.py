"""CLMLE's loss against its slow twin, its gradients, and the batches that break such losses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.helpers import reference_trainer as reference
from trainer.losses.clmle import candidate_cosines, clmle_loss
from trainer.losses.margins import angular_margin_cosine

SETTINGS = {
    "scale": 8.0,
    "margin_between_rad": 0.4,
    "margin_within_rad": 0.1,
    "weight_within": 0.3,
}


def unit_rows(num: int, dim: int, *, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(num, dim, generator=generator, dtype=dtype), dim=1)


def small_batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three classes with 3, 2 and 1 clusters; nine samples, one cluster without any."""
    cluster = torch.tensor([0, 0, 1, 1, 2, 3, 5, 5, 5])
    class_of = torch.tensor([0, 0, 0, 1, 1, 2])
    return (
        unit_rows(9, 4, seed=1, dtype=dtype),
        cluster,
        unit_rows(6, 4, seed=2, dtype=dtype),
        class_of,
    )


# -- the angular margin ----------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 1.5])
def test_angular_margin_equals_its_definition(margin: float) -> None:
    cosines = torch.linspace(-0.999, 0.999, 201, dtype=torch.float64)
    expected = torch.stack([reference.angular_margin_cosine(c, margin) for c in cosines])
    torch.testing.assert_close(angular_margin_cosine(cosines, margin), expected)


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.5])
def test_angular_margin_falls_with_the_angle_and_has_no_jump(margin: float) -> None:
    angles = torch.linspace(0, math.pi, 10_001, dtype=torch.float64)
    values = angular_margin_cosine(angles.cos(), margin)
    steps = values.diff()
    assert (steps <= 1e-12).all()
    assert steps.abs().max() < 1e-3
    assert steps.diff().abs().max() < 1e-5  # the slope has no jump either


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [0.0, 0.35, 1.5])
def test_angular_margin_has_finite_gradients_up_to_the_ends(
    margin: float, dtype: torch.dtype
) -> None:
    ends = torch.tensor([-1.0 - 1e-7, -1.0, -1.0 + 1e-7, 1.0 - 1e-7, 1.0, 1.0 + 1e-7], dtype=dtype)
    cosines = torch.cat([ends, torch.tensor([-math.cos(margin)], dtype=dtype)]).requires_grad_()
    values = angular_margin_cosine(cosines, margin)
    values.sum().backward()
    assert values.isfinite().all()
    assert cosines.grad is not None
    assert cosines.grad.isfinite().all()


def test_angular_margin_passes_gradcheck() -> None:
    # The second half lies beyond theta + margin = pi.
    cosines = torch.tensor([0.9, 0.2, -0.5, -0.93, -0.99], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: angular_margin_cosine(c, 0.5), (cosines,))


# -- the loss against its twin ---------------------------------------------------------


PRIOR = [math.log(n) for n in (400, 30, 30, 5, 1, 60)]


@pytest.mark.parametrize("prior", [None, PRIOR], ids=["alike", "by size"])
@pytest.mark.parametrize("per_sample_margins", [False, True])
def test_loss_and_gradients_equal_the_slow_twin(
    per_sample_margins: bool, prior: list[float] | None
) -> None:
    embeddings, cluster, centroids, class_of = small_batch()
    settings = dict(SETTINGS)
    if per_sample_margins:
        settings["margin_between_rad"] = torch.linspace(0.1, 0.9, len(cluster))
        settings["margin_within_rad"] = torch.linspace(0.0, 0.2, len(cluster))
    fast, slow = (
        [embeddings.clone().requires_grad_(), centroids.clone().requires_grad_()] for _ in range(2)
    )

    log_prior = None if prior is None else torch.tensor(prior)
    cosine = fast[0] @ fast[1].T
    terms = clmle_loss(cluster, cosine, class_of, **settings, log_prior=log_prior)
    between, within = reference.clmle_terms(
        slow[0],
        cluster.tolist(),
        slow[1],
        class_of.tolist(),
        scale=settings["scale"],
        margins_between=torch.as_tensor(settings["margin_between_rad"]).expand(9).tolist(),
        margins_within=torch.as_tensor(settings["margin_within_rad"]).expand(9).tolist(),
        log_prior=prior,
    )
    terms.loss.backward()
    (between + settings["weight_within"] * within).backward()

    torch.testing.assert_close(terms.between, between)
    torch.testing.assert_close(terms.within, within)
    torch.testing.assert_close(terms.loss, between + settings["weight_within"] * within)
    for got, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(got.grad, expected.grad)


def test_loss_passes_gradcheck_through_the_batch_means() -> None:
    raw, cluster, table, class_of = small_batch()

    def loss(raw: Tensor) -> Tensor:
        embeddings = functional.normalize(raw, dim=1)
        rows, cosine, which = candidate_cosines(
            embeddings, cluster, table, candidates="table", momentum=0.7
        )
        prior = torch.tensor(PRIOR)[which]
        return clmle_loss(rows, cosine, class_of[which], **SETTINGS, log_prior=prior).loss

    assert torch.autograd.gradcheck(loss, (raw.requires_grad_(),))


def test_large_clusters_are_pushed_away_harder() -> None:
    # One image between a large and a small cluster of other classes, as near to each.
    embeddings = functional.normalize(torch.tensor([[1.0, 0.0, 0.0]]), dim=1)
    centroids = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], requires_grad=True)
    clmle_loss(
        torch.tensor([0]),
        embeddings @ centroids.T,
        torch.arange(3),
        **SETTINGS,
        log_prior=torch.tensor([10.0, 40.0, 10.0]).log(),
    ).between.backward()
    assert centroids.grad is not None
    large, small = centroids.grad[1, 0], centroids.grad[2, 0]
    torch.testing.assert_close(large / small, torch.tensor(4.0))


def test_larger_margins_cost_more() -> None:
    embeddings, cluster, centroids, class_of = small_batch()
    losses = [
        float(
            clmle_loss(
                cluster,
                embeddings @ centroids.T,
                class_of,
                **SETTINGS | {"margin_between_rad": m},
            ).between
        )
        for m in (0.0, 0.2, 0.4, 1.0, 1.5)
    ]
    assert losses == sorted(losses)


# -- batches that break losses ---------------------------------------------------------


def loss_and_gradient(
    embeddings: Tensor, cluster: Tensor, centroids: Tensor, class_of: Tensor, **changes: float
) -> tuple[dict[str, float], Tensor]:
    embeddings = embeddings.clone().requires_grad_()
    terms = clmle_loss(cluster, embeddings @ centroids.T, class_of, **SETTINGS | changes)
    terms.loss.backward()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    names = ("loss", "between", "within")
    return {name: float(getattr(terms, name).detach()) for name in names}, embeddings.grad


def test_one_class_has_no_between_term() -> None:
    embeddings, cluster, centroids, _ = small_batch()
    terms, _ = loss_and_gradient(embeddings, cluster, centroids, torch.zeros(6, dtype=torch.int64))
    assert terms["between"] == 0
    assert terms["within"] > 0


def test_classes_of_one_cluster_have_no_within_term() -> None:
    embeddings, cluster, centroids, _ = small_batch()
    terms, _ = loss_and_gradient(embeddings, cluster, centroids, torch.arange(6))
    assert terms["within"] == 0
    assert terms["between"] > 0


def test_one_cluster_alone_costs_nothing_and_pulls_nowhere() -> None:
    terms, gradient = loss_and_gradient(
        unit_rows(3, 4, seed=0),
        torch.zeros(3, dtype=torch.int64),
        unit_rows(1, 4, seed=1),
        torch.zeros(1, dtype=torch.int64),
    )
    assert terms == {"loss": 0, "between": 0, "within": 0}
    assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_embeddings_on_identical_centroids_stay_finite(dtype: torch.dtype) -> None:
    point = unit_rows(1, 4, seed=0, dtype=dtype)
    _, cluster, _, class_of = small_batch()
    terms, _ = loss_and_gradient(point.expand(9, 4), cluster, point.expand(6, 4), class_of)
    assert all(math.isfinite(value) for value in terms.values())


def test_large_scales_do_not_overflow() -> None:
    embeddings, cluster, centroids, class_of = small_batch(torch.float32)
    terms, _ = loss_and_gradient(embeddings, cluster, centroids, class_of, scale=1e4)
    assert all(math.isfinite(value) for value in terms.values())


@pytest.mark.parametrize("candidates", ["batch", "table"])
def test_bfloat16_embeddings_are_computed_in_float32(candidates: str) -> None:
    embeddings, cluster, table, class_of = small_batch(torch.float32)
    rounded = embeddings.bfloat16()

    def computed(embeddings: Tensor) -> Tensor:
        rows, cosine, which = candidate_cosines(embeddings, cluster, table, candidates=candidates)
        return clmle_loss(rows, cosine, class_of[which], **SETTINGS).loss

    expected = computed(rounded.float())
    with torch.autocast("cpu", torch.bfloat16):
        got = computed(rounded)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


# -- in-batch means --------------------------------------------------------------------


def test_batch_candidates_are_the_normalised_means_of_the_batch() -> None:
    embeddings, cluster, table, class_of = small_batch()
    rows, cosine, which = candidate_cosines(embeddings, cluster, table, candidates="batch")
    expected = reference.batch_means(embeddings, cluster.tolist(), table)
    assert list(expected) == [0, 1, 2, 3, 5]
    torch.testing.assert_close(cosine, embeddings @ torch.stack(list(expected.values())).T)
    assert which.tolist() == list(expected)
    assert rows.tolist() == [0, 0, 1, 1, 2, 3, 4, 4, 4]


def test_table_candidates_keep_the_clusters_that_are_not_in_the_batch() -> None:
    embeddings, cluster, table, class_of = small_batch()
    before = table.clone()
    rows, cosine, which = candidate_cosines(embeddings, cluster, table, candidates="table")
    expected = reference.batch_means(embeddings, cluster.tolist(), table) | {4: table[4]}
    directions = torch.stack([expected[j] for j in range(6)])
    torch.testing.assert_close(cosine, embeddings @ directions.T)
    assert torch.equal(rows, cluster)
    assert torch.equal(which, torch.arange(6))
    assert torch.equal(table, before)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("candidates", ["batch", "table"])
def test_gradients_flow_through_the_means_as_in_the_slow_twin(
    candidates: str, momentum: float
) -> None:
    embeddings, cluster, table, class_of = small_batch()
    fast, slow = embeddings.clone().requires_grad_(), embeddings.clone().requires_grad_()
    weights = torch.arange(54.0, dtype=torch.float64).view(9, 6).sin()

    _, cosine, which = candidate_cosines(
        fast, cluster, table, candidates=candidates, momentum=momentum
    )
    (cosine * weights[:, which]).sum().backward()
    means = reference.batch_means(slow, cluster.tolist(), table, momentum) | {4: table[4]}
    expected = slow @ torch.stack([means[j] for j in which.tolist()]).T
    (expected * weights[:, which]).sum().backward()

    assert len(which) == {"batch": 5, "table": 6}[candidates]
    torch.testing.assert_close(cosine, expected)
    torch.testing.assert_close(fast.grad, slow.grad)


@pytest.mark.parametrize("candidates", ["batch", "table"])
def test_embeddings_that_cancel_out_leave_the_old_centroid(candidates: str) -> None:
    point = unit_rows(1, 4, seed=0, dtype=torch.float32)
    embeddings = torch.cat([point, -point]).requires_grad_()
    table = unit_rows(2, 4, seed=1, dtype=torch.float32)
    rows, cosine, _ = candidate_cosines(
        embeddings, torch.tensor([1, 1]), table, candidates=candidates
    )
    own = cosine.gather(1, rows[:, None])
    torch.testing.assert_close(own, embeddings @ table[1][:, None])
    own.sum().backward()
    assert embeddings.grad is not None
    assert torch.equal(embeddings.grad, table[1].expand(2, 4))  # nothing through a mean


def test_absent_clusters_cost_no_copy_of_the_table() -> None:
    """A table of 200,000 clusters is hundreds of megabytes, in every micro-batch."""
    embeddings, cluster, table, _ = small_batch()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        candidate_cosines(embeddings.requires_grad_(), cluster, table, candidates="table")
    as_large = [t for t in saved if sorted(t.shape) == sorted(table.shape)]
    assert len(as_large) == 1
    assert as_large[0].data_ptr() == table.data_ptr()
