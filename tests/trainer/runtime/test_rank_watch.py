"""A silent rank is named by the others in time; one that is busy, or was stopped, is not."""

import os
import queue
import signal
import socket
import subprocess
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from tests.helpers.ranks import free_port, run_ranks
from trainer.config.builder import build_config
from trainer.errors import LostRanks
from trainer.runtime.engine import start_distributed
from trainer.runtime.rank_watch import RankWatch
from trainer.runtime.world import World, first_line, is_lost_connection

LIMIT, STILL = 3.0, 5.0
ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))


def watch_each_other(rank, num_ranks):
    """All are busy, and rank 2, then rank 0, stands still meanwhile: what each rank found."""
    dist.init_process_group("gloo")
    world = World.from_environment()
    return [_watch_while_one_stands_still(world, stopped) for stopped in (2, 0)]


def _watch_while_one_stands_still(world, stopped):
    found = queue.Queue()
    watch = RankWatch(world, LIMIT, end=lambda error: found.put((time.monotonic(), str(error))))
    with watch.watching():
        watch.at(f"step {stopped}")
        began = time.monotonic()
        if world.rank == stopped:
            subprocess.Popen(["sh", "-c", f"sleep {STILL}; kill -CONT {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(max(0.0, began + STILL + LIMIT / 2 - time.monotonic()))
        world.barrier()  # which all have lived to see
    return [(when - began, text) for when, text in found.queue]


@pytest.fixture(scope="module")
def found():
    return run_ranks(watch_each_other, 3, timeout=90)


@pytest.mark.parametrize(("turn", "stopped"), [(0, 2), (1, 0)])
def test_the_silent_rank_is_named_and_no_other(found, turn, stopped):
    """Rank 0 keeps the store: while it is silent, nothing is heard of any rank."""
    for rank in {0, 1, 2} - {stopped}:
        ((seconds, text),) = found[rank][turn]
        assert 0.8 * LIMIT < seconds < STILL + LIMIT / 2
        assert text.startswith(
            f"during step {stopped}, no sign of life from rank {stopped} on {socket.gethostname()} "
            "for 3 s (train.communication_timeout_seconds); see whether the host runs"
        )


@pytest.mark.parametrize(("turn", "stopped"), [(0, 2), (1, 0)])
def test_a_rank_that_goes_on_blames_nobody_for_the_time_it_missed(found, turn, stopped):
    assert found[stopped][turn] == []


def come_too_late(rank, num_ranks):
    """Rank 1 is alive, but does not come to the collective in its time."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=4))
    world = World.from_environment()
    watch = RankWatch(world, 60.0)
    try:
        with watch.watching():
            watch.at("step 5")
            time.sleep(6 * rank)
            world.barrier()
    except LostRanks as error:
        return str(error)
    return None


def test_a_collective_without_an_answer_becomes_one_line_about_the_others():
    first, second = run_ranks(come_too_late, 2, timeout=60)
    assert first.startswith("during step 5, a collective failed (Timed out waiting 4000ms for")
    assert f"last signs of life: rank 1 on {socket.gethostname()} " in first
    assert "\n" not in first
    assert second.startswith("during step 5, a collective failed (")


def meet_nobody(rank, num_ranks):
    """Each rank at another place."""
    os.environ["MASTER_PORT"] = str(free_port())
    config = build_config({"train": {"communication_timeout_seconds": 2}})
    try:
        start_distributed(config)
    except LostRanks as error:
        return os.environ["MASTER_PORT"], str(error)
    return None


def test_ranks_that_do_not_meet_say_where_they_waited():
    for rank, (port, text) in enumerate(run_ranks(meet_nobody, 2, timeout=60)):
        assert text.startswith(f"rank {rank} did not meet the other 1 within 2.5 s (")
        assert text.endswith(f"see that every host reaches 127.0.0.1:{port}")
        assert "\n" not in text


def test_of_an_error_only_what_happened_is_shown():
    error = RuntimeError("[/gloo/pair.cc:547] Connection closed by peer [::1]:9. This is typical.")
    assert first_line(error) == "Connection closed by peer [::1]:9"
    error = RuntimeError("1/2 clients joined.\nException raised from x")
    assert first_line(error) == "1/2 clients joined"


def test_alone_there_is_nobody_to_watch():
    with RankWatch(ALONE, 1.0).watching():
        pass


def test_other_errors_are_left_as_they_are():
    assert not is_lost_connection(RuntimeError("the operation timed out"))
    assert not is_lost_connection(RuntimeError("gloo: op.preamble.length <= op.nbytes. 16 vs 8"))
    assert is_lost_connection(RuntimeError("[gloo/pair.cc:3] Connection closed by peer [::1]:9"))
    assert is_lost_connection(dist.DistNetworkError("no route"))
