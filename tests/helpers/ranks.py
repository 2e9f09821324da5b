"""Run a function on several gloo ranks, each a process of its own."""

import multiprocessing
import os
import queue as queues
import socket
import time
import traceback

# What making an engine and writing metrics would import: 2 of the 2.4 s of a short training run.
_PRELOADED = ["trainer.train", "torch._dynamo", "torch.utils.tensorboard"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fresh_processes():
    """A multiprocessing context whose processes start quickly and know nothing of this one.

    They are forked from one that has imported the trainer, and done nothing more: importing would
    take most of their time.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def run_ranks(function, num_ranks, *arguments, timeout=120):
    """Call `function(rank, num_ranks, *arguments)` on each rank; return the results by rank.

    The function must live at the top level of a module. A rank that fails fails the test with its
    traceback; one that hangs fails it after the time-out; one that was killed has its negative exit
    code as its result.
    """
    context = fresh_processes()
    queue = context.Queue()
    port = free_port()
    processes = [
        context.Process(target=_rank, args=(queue, function, rank, num_ranks, port, arguments))
        for rank in range(num_ranks)
    ]
    for process in processes:
        process.start()
    try:
        results = {}
        deadline = time.monotonic() + timeout
        while len(results) < num_ranks:
            assert time.monotonic() < deadline, f"ranks hang; {sorted(results)} are done"
            killed = {r: p.exitcode for r, p in enumerate(processes) if (p.exitcode or 0) < 0}
            try:
                rank, ok, value = queue.get(timeout=0.5)
            except queues.Empty:  # nothing of theirs is on its way
                results = killed | results
                continue
            assert ok, f"rank {rank}:\n{value}"
            results[rank] = value
    finally:
        for process in processes:
            process.join(timeout=20 if len(results) == num_ranks else 1)
            if process.is_alive():
                process.kill()
                process.join()
    return [results[rank] for rank in range(num_ranks)]


def _rank(queue, function, rank, num_ranks, port, arguments):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(num_ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
        DS_ACCELERATOR="cpu",
        TORCH_CPP_LOG_LEVEL="ERROR",
    )
    try:
        queue.put((rank, True, function(rank, num_ranks, *arguments)))
    except BaseException:
        queue.put((rank, False, traceback.format_exc()))
        raise
