"""The few collectives of the trainer, on one rank and on two gloo ranks."""

import datetime
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist

from data_shards.errors import ConfigError
from tests.helpers.ranks import run_ranks
from trainer.errors import TrainingError
from trainer.runtime import world as world_module
from trainer.runtime.world import World, micro_batches_of_rank

ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
ARRAYS = {
    "floats": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3),
    "integers": np.arange(5),
    "empty": np.empty((3, 0), np.int64),
}


def test_without_a_launcher_a_process_is_alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    world = World.from_environment()
    assert (world.rank, world.size, world.local_rank) == (0, 1, 0)
    assert world.is_first


def test_the_launcher_says_who_is_who(monkeypatch):
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    world = World.from_environment()
    assert (world.rank, world.size, world.local_rank) == (5, 8, 1)
    assert not world.is_first
    assert world.device.type == "cpu"  # the tests set DS_ACCELERATOR


def test_alone_every_collective_gives_back_what_it_got():
    numbers = torch.tensor([1, 2])
    assert ALONE.sum(numbers) is numbers
    assert ALONE.mean(torch.tensor([3.0])).tolist() == [3.0]
    assert ALONE.gather(numbers).tolist() == [[1, 2]]
    assert ALONE.broadcast_text("a table") == "a table"
    assert ALONE.broadcast_text(None) is None
    received = ALONE.broadcast_arrays(ARRAYS)
    assert all(np.array_equal(received[name], ARRAYS[name]) for name in ARRAYS)
    assert ALONE.run_on_rank_zero(lambda: "done") == "done"
    ALONE.barrier()


def collectives(rank, num_ranks):
    dist.init_process_group("gloo")
    world = World.from_environment()
    mine = torch.tensor([rank + 1, 10 * rank])
    read_only = {name: array.copy() for name, array in ARRAYS.items()}
    for array in read_only.values():
        array.flags.writeable = False  # as the store gives them
    results = {
        "size": world.size,
        "sum": world.sum(mine).tolist(),
        "mine": mine.tolist(),
        "scalar": world.sum(torch.tensor(0.5, dtype=torch.float64)).item(),
        "mean": world.mean(torch.tensor([rank], dtype=torch.float32)).tolist(),
        "gathered": world.gather(mine[:, None]).tolist(),
        "text": world.broadcast_text(f"from rank {rank}"),
        "nothing": world.broadcast_text(None if rank == 0 else "lost"),
        "arrays": world.broadcast_arrays(read_only if rank == 0 else None),
        "no arrays": world.broadcast_arrays({} if rank == 0 else None),
    }
    world.barrier()
    dist.destroy_process_group()
    return results


@pytest.fixture(scope="module")
def two_ranks():
    return run_ranks(collectives, 2, timeout=60)


def test_sums_and_means_are_the_same_on_each_rank(two_ranks):
    for result in two_ranks:
        assert result["size"] == 2
        assert result["sum"] == [3, 10]
        assert result["scalar"] == 1.0
        assert result["mean"] == [0.5]


def test_a_sum_leaves_its_argument_alone(two_ranks):
    assert [result["mine"] for result in two_ranks] == [[1, 0], [2, 10]]


def test_gathered_tensors_are_in_the_order_of_the_ranks(two_ranks):
    for result in two_ranks:
        assert result["gathered"] == [[[1], [0]], [[2], [10]]]


def test_rank_0_speaks_for_all(two_ranks):
    for result in two_ranks:
        assert result["text"] == "from rank 0"
        assert result["nothing"] is None


def test_arrays_arrive_with_their_shapes_and_types(two_ranks):
    for result in two_ranks:
        assert list(result["arrays"]) == list(ARRAYS)
        assert result["no arrays"] == {}
        for name, expected in ARRAYS.items():
            received = result["arrays"][name]
            assert received.dtype == expected.dtype
            np.testing.assert_array_equal(received, expected, strict=True)


TIMEOUT_SECONDS = 2


def slow_work(rank, num_ranks):
    """Rank 0 takes longer than the collectives' time-out, then fails."""
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=TIMEOUT_SECONDS))
    world_module.ROUND_SECONDS = 0.1
    world = World.from_environment()

    def work():
        time.sleep(2 * TIMEOUT_SECONDS)
        return rank

    def fail():
        raise OSError(28, "No space left on device")

    done = world.run_on_rank_zero(work)
    try:
        world.run_on_rank_zero(fail)
    except (OSError, TrainingError) as error:
        failure = type(error).__name__
    dist.destroy_process_group()
    return done, failure


def test_no_rank_loses_patience_with_the_slow_work_of_the_first():
    assert run_ranks(slow_work, 2, timeout=60) == [(0, "OSError"), (None, "TrainingError")]


def test_ranks_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="= 4 does not divide among 3 ranks; set it to a multiple"
    ):
        micro_batches_of_rank(range(4), 0, 3)
