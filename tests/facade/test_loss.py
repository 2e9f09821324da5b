"""`ClmleLoss` against the functions that the trainer minimises, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

import clmle
from clustering.table.table import ClusterTable
from data_shards.errors import ConfigError
from tests.helpers.cluster_tables import tiny_table
from trainer.losses.clmle import ClmleSettings, candidate_cosines, clmle_loss

DIM = 4


@pytest.fixture
def table() -> ClusterTable:
    return tiny_table(dim=DIM)


def batch(table: ClusterTable, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(size, DIM, generator=generator, dtype=torch.float64)
    return rows, torch.randint(0, table.num_clusters, (size,), generator=generator)


@pytest.mark.parametrize("candidates", ["batch", "table"])
@pytest.mark.parametrize("mean_momentum", [0.0, 0.7, 1.0])
def test_value_and_gradient_are_those_of_the_trainers_functions(
    table: ClusterTable, candidates: Any, mean_momentum: float
) -> None:
    rows, clusters = batch(table)
    mine, theirs = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    loss = clmle.ClmleLoss(
        scale=8.0,
        margin_between=0.3,
        margin_within=0.2,
        weight_within=0.5,
        candidates=candidates,
        mean_momentum=mean_momentum,
    )
    value = loss(mine, clusters, table)
    value.backward()
    own, cosine, compared = candidate_cosines(
        functional.normalize(theirs, dim=1),
        clusters,
        torch.tensor(table.centroids),
        candidates=candidates,
        momentum=mean_momentum,
    )
    expected = clmle_loss(
        cosine=cosine,
        cluster=own,
        class_of=torch.tensor(table.class_of)[compared],
        scale=8.0,
        margin_between_rad=0.3,
        margin_within_rad=0.2,
        weight_within=0.5,
    ).loss
    expected.backward()
    assert torch.equal(value, expected)
    assert mine.grad is not None
    assert torch.equal(mine.grad, theirs.grad)


def test_the_gradient_is_that_of_finite_differences(table: ClusterTable) -> None:
    rows, clusters = batch(table, size=5)
    loss = clmle.ClmleLoss()
    assert torch.autograd.gradcheck(
        lambda x: loss(x, clusters, table), (rows.requires_grad_(),), atol=1e-4
    )


def test_only_directions_count(table: ClusterTable) -> None:
    rows, clusters = batch(table)
    loss = clmle.ClmleLoss()
    lengths = torch.linspace(0.1, 9, len(rows), dtype=torch.float64)[:, None]
    assert loss(rows * lengths, clusters, table).item() == pytest.approx(
        loss(rows, clusters, table).item()
    )


def test_another_table_is_taken_when_it_is_given(table: ClusterTable) -> None:
    rows, clusters = batch(table)
    loss, other = clmle.ClmleLoss(), tiny_table(dim=DIM, seed=1)
    first = loss(rows, clusters, table)
    assert loss(rows, clusters, other) != first
    assert loss(rows, clusters, table) == first


def test_a_first_call_without_gradients_does_not_spoil_the_next(table: ClusterTable) -> None:
    loss, clusters = clmle.ClmleLoss(), torch.arange(4)
    rows = torch.randn(4, table.dim, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = loss(rows, clusters, table)
    value = loss(rows.clone().requires_grad_(), clusters, table)
    value.backward()
    assert value.item() == expected.item()


def test_half_precision_and_other_integers_serve(table: ClusterTable) -> None:
    rows, clusters = batch(table)
    loss = clmle.ClmleLoss()
    half = loss(rows.to(torch.bfloat16), clusters.to(torch.int32), table)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss(rows, clusters, table).item(), rel=0.05)


def test_wrong_arguments_are_told_what_was_expected(table: ClusterTable) -> None:
    rows, clusters = batch(table)
    loss = clmle.ClmleLoss()
    expected = r"expected loss\(embeddings \(B, D\), cluster_ids \(B,\), table\)"
    with pytest.raises(TypeError, match=expected):  # swapped
        loss(clusters, rows, table)
    with pytest.raises(TypeError, match=expected):
        loss(rows, table, clusters)
    with pytest.raises(TypeError, match="table must be a ClusterTable"):
        loss(rows, clusters, torch.tensor(table.centroids))
    with pytest.raises(ValueError, match="a table of dimension 4"):
        loss(rows[:, :3], clusters, table)
    with pytest.raises(ValueError, match=expected):
        loss(rows, clusters[:-1], table)
    with pytest.raises(ValueError, match=r"must lie in 0 \.\. 5, got .* \.\. 6"):
        loss(rows, clusters.clamp(max=5).index_fill(0, torch.tensor([0]), 6), table)


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_a_row_without_a_direction_is_named(table: ClusterTable, value: float) -> None:
    rows, clusters = batch(table)
    rows[3] = value
    message = rf"embedding 3 has length {value}, so it has no direction; 1 of 12"
    with pytest.raises(ValueError, match=message):
        clmle.ClmleLoss()(rows, clusters, table)


def test_defaults_are_those_of_a_run_where_its_batches_do_not_matter() -> None:
    mine, theirs = clmle.ClmleLoss().settings, ClmleSettings()
    differing = {name for name, value in vars(theirs).items() if vars(mine)[name] != value}
    assert differing == {"candidates", "mean_momentum"}


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": 0.0},
        {"margin_between": 0.1, "margin_within": 0.2},
        {"margin_between": 1.6},
        {"weight_within": -1.0},
        {"candidates": "all"},
        {"mean_momentum": 1.5},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        clmle.ClmleLoss(**settings)


def test_it_prints_its_settings() -> None:
    assert "margin_between=0.35" in repr(clmle.ClmleLoss())
