"""A rank that falls silent, without closing a connection, ends the others in time."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster_jobs.launch.command_lines import trainer_command, trainer_environment
from cluster_jobs.launch.processes import Part
from tests.helpers.ranks import free_port
from tests.helpers.training import tiny_config
from tests.helpers.two_hosts import CAN_MAKE, two_hosts
from trainer.config.yaml_file import to_yaml
from trainer.run.folder import RunFolder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LIMIT = 6.0
# A tenth as running.md says, and for what a busy machine takes to start and end processes.
IN_TIME = 1.1 * LIMIT + 5.0


@pytest.fixture
def config(tmp_path, tiny_shards):
    """A training that would take hours."""
    made = tiny_config(
        tmp_path / "run",
        tiny_shards,
        loss__name="softmax",
        train__steps=10**6,
        train__communication_timeout_seconds=LIMIT,
    )
    made.run_path.mkdir()
    RunFolder(made.run_path).config.write_text(to_yaml(made))
    return made


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def wait_for_steps(config, processes, number=5):
    metrics = RunFolder(config.run_path).metrics

    def trained():
        assert all(process.poll() is None for process in processes), "the training ended"
        return metrics.exists() and metrics.read_bytes().count(b"train/loss") >= number

    wait_until(trained, 90, "no step was done")


def the_line(text, rank, silent, host):
    """The one line about the silent rank."""
    (line,) = [line for line in text.splitlines() if "no sign of life" in line]
    assert line.startswith(f"rank {rank}: error: during step ")
    assert f"no sign of life from rank {silent} on {host} for {LIMIT:g} s" in line
    assert "Traceback" not in text
    return line


def test_a_stopped_rank_ends_what_clmle_run_starts(config):
    port = free_port()
    file = RunFolder(config.run_path).config
    part = Part(
        "trainer",
        trainer_command(file, resume="auto", port=port, ranks=2, devices=()),
        log=RunFolder(config.run_path).logs / "trainer.log",
        environment=trainer_environment(config, share=1, on_gpu=False),
    )
    try:
        wait_for_steps(config, [part])
        first, second = ranks_below(part.pid)
        second.suspend()
        stopped = time.monotonic()
        wait_until(lambda: not is_alive(first), IN_TIME, "rank 0 still waits")
        assert time.monotonic() - stopped > 0.8 * LIMIT
        second.kill()  # DeepSpeed's launcher would do it after 30 s
        assert part.wait(20), "the launcher ends with the code of a rank"
        the_line(part.tail(1000), 0, 1, os.uname().nodename)
    finally:
        part.stop()


def ranks_below(pid):
    """Processes of the ranks, in their order."""
    found = {}
    for process in psutil.Process(pid).children(recursive=True):
        if "trainer.train" in process.cmdline() and "RANK" in process.environ():
            found[int(process.environ()["RANK"])] = process
    return [found[rank] for rank in sorted(found)]


def is_alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.skipif(not CAN_MAKE, reason="needs root on Linux, and iproute2")
def test_the_host_of_rank_0_loses_its_power(config, tmp_path):
    """The ranks met at a store in its process: rank 1 hears of nobody any more."""
    with two_hosts() as hosts:
        processes, log = [], tmp_path / "rank1.log"
        for rank, host in enumerate(hosts):
            environment = trainer_environment(config, share=1, on_gpu=False) | {
                **{"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
                **{"MASTER_ADDR": hosts[0].address, "MASTER_PORT": "29500"},
                "GLOO_SOCKET_IFNAME": "eth0",
            }
            command = [sys.executable, "-m", "trainer.train", "--config", config.run_path]
            with (tmp_path / f"rank{rank}.log").open("w") as output:
                processes.append(
                    host.start(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
                )
        wait_for_steps(config, processes)
        hosts[0].power_off()
        assert processes[0].poll() == -signal.SIGKILL
        wait_until(lambda: processes[1].poll() is not None, IN_TIME, "rank 1 still waits")
        assert processes[1].poll() == 1
        the_line(log.read_text(), 1, 0, "host1")
