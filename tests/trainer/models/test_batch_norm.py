"""BatchNorm's running statistics must not depend on the number of ranks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from trainer.models.batch_norm import RunningStatistics


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4)
    )


def micro_batches(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(5, 1, 4, 4, generator=generator) * (n + 1) for n in range(4)]


def train_on(ranks: int, *, steps: int) -> list[nn.Module]:
    """Simulate ranks, each a thread: rank r takes every `ranks`-th micro-batch."""
    replicas = [network() for _ in range(ranks)]
    brought: list[Tensor] = [torch.empty(0)] * ranks
    everyone = threading.Barrier(ranks, timeout=30)

    def train(rank: int) -> None:
        def world_average(mine: Tensor) -> Tensor:
            brought[rank] = mine
            everyone.wait()
            average = torch.stack(brought).mean(dim=0)
            everyone.wait()
            return average

        statistics = RunningStatistics(replicas[rank])
        for step in range(steps):
            statistics.begin_step()
            for batch in micro_batches(step)[rank::ranks]:
                replicas[rank](batch)
                statistics.collect()
            statistics.finish(world_average)

    with ThreadPoolExecutor(ranks) as pool:
        list(pool.map(train, range(ranks)))
    return replicas


@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_ranks_gives_the_same_statistics(ranks: int) -> None:
    (alone,) = train_on(1, steps=3)
    for replica in train_on(ranks, steps=3):
        for name, buffer in alone.named_buffers():
            assert torch.equal(buffer, replica.get_buffer(name)), name


def test_statistics_move_to_the_average_over_the_micro_batches() -> None:
    (trained,) = train_on(1, steps=1)
    conv = network()[0]
    means = torch.stack([conv(batch).mean(dim=(0, 2, 3)) for batch in micro_batches(0)])
    expected = 0.1 * means.mean(dim=0)  # momentum 0.1, from a mean of 0
    torch.testing.assert_close(trained[1].running_mean, expected.detach())


def test_one_micro_batch_is_plain_batch_norm() -> None:
    plain, ours = network(), network()
    statistics = RunningStatistics(ours)
    for step in range(3):
        batch = micro_batches(step)[0]
        plain(batch)
        statistics.begin_step()
        ours(batch)
        statistics.collect()
        statistics.finish(lambda mine: mine)
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, ours.get_buffer(name)), name


def test_statistics_may_be_collected_before_the_backward_pass() -> None:
    plain, ours = network(), network()
    statistics = RunningStatistics(ours)
    statistics.begin_step()
    for batch in micro_batches(0):
        plain(batch).square().sum().backward()
        output = ours(batch)
        statistics.collect()
        output.square().sum().backward()
    for expected, got in zip(plain.parameters(), ours.parameters(), strict=True):
        assert torch.equal(expected.grad, got.grad)


def test_a_step_counts_as_one_batch() -> None:
    (trained,) = train_on(1, steps=3)
    assert trained[1].num_batches_tracked.dtype == torch.int64
    assert trained[1].num_batches_tracked.item() == trained[4].num_batches_tracked.item() == 3


def test_a_network_without_batch_norm_needs_no_average() -> None:
    statistics = RunningStatistics(nn.Linear(2, 2))
    statistics.begin_step()
    statistics.collect()
    statistics.finish(lambda mine: pytest.fail("nothing to average"))
