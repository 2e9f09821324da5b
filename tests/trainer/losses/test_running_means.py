"""Running means are those of the slow twin, and the same for any number of ranks."""

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional

from tests.helpers import reference_trainer as reference
from tests.helpers.ranks import run_ranks
from trainer.losses import cluster_means
from trainer.losses.running_means import StepEmbeddings, move_means
from trainer.runtime.world import World

ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
TASKS = ("shape", "parity")


def unit_rows(num, seed):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(num, 4, generator=generator), dim=1)


@pytest.mark.parametrize("momentum", [0.1, 0.9, 1.0])
def test_means_move_as_in_the_slow_twin(momentum, monkeypatch):
    monkeypatch.setattr(cluster_means, "_CLUSTERS_AT_A_TIME", 2)
    centroids = unit_rows(5, 0)
    steps = [(unit_rows(6, seed), [0, 3, 3, seed % 5, 3, 0]) for seed in (1, 2, 4)]
    means = centroids.clone()
    for embeddings, clusters in steps:
        move_means(means, embeddings, torch.tensor(clusters), momentum=momentum)
    torch.testing.assert_close(means, reference.running_means(centroids, steps, momentum))
    untouched = sorted({0, 1, 2, 3, 4} - {c for _, clusters in steps for c in clusters})
    assert torch.equal(means[untouched], centroids[untouched])


def test_a_mean_that_its_images_cancel_out_stays():
    point = unit_rows(1, 0)
    mean = point.clone()
    move_means(mean, -point, torch.tensor([0]), momentum=0.5)
    assert torch.equal(mean, point)


def micro_batches():
    """Four micro-batches of a step: task -> (embeddings, clusters) of each."""
    return [
        {task: (unit_rows(3, 10 * g + n), torch.tensor([g, n, 4])) for n, task in enumerate(TASKS)}
        for g in range(4)
    ]


def gathered(world):
    step = StepEmbeddings()
    for batch in micro_batches()[world.rank :: world.size]:
        for task, (embeddings, clusters) in batch.items():
            step.add(task, embeddings.requires_grad_(), clusters)
    whole = step.gather(world.gather)
    assert step.gather(world.gather) == {}, "a step was gathered twice"
    return {task: [part.tolist() for part in parts] for task, parts in whole.items()}


def on_ranks(rank, num_ranks):
    dist.init_process_group("gloo")
    result = gathered(World.from_environment())
    dist.destroy_process_group()
    return result


def test_every_rank_gets_the_whole_step_in_its_order():
    expected = {
        task: [
            torch.cat([batch[task][part] for batch in micro_batches()]).tolist() for part in (0, 1)
        ]
        for task in TASKS
    }
    assert gathered(ALONE) == expected
    assert run_ranks(on_ranks, 2, timeout=60) == [expected, expected]
