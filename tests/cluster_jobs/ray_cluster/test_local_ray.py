from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray

from cluster_jobs import machine
from cluster_jobs.errors import JobError, PartFailed
from cluster_jobs.launch.processes import Part
from cluster_jobs.ray_cluster import local_ray, private_folder
from cluster_jobs.ray_cluster.address import check_ray_address

pytestmark = pytest.mark.ray

# Settings of the tests' own that would hide what is set here.
HIDDEN = ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_AUTO_CONNECT", "RAY_ADDRESS")

WITHIN_SESSION = """
import ray, sys
from cluster_jobs.ray_cluster.local_ray import ray_session
with ray_session() as cpus:
    print(cpus, ray.get(ray.remote(lambda: 6 * 7).remote(), timeout=30))
"""
OF_OUR_OWN = """
import os, tempfile
from cluster_jobs.ray_cluster.local_ray import ray_session
with ray_session(num_cpus=1) as cpus:
    print(cpus, sum(name.startswith("clmle-") for name in os.listdir(tempfile.gettempdir())))
"""
LONG_TASK = """
import signal, sys, time
from cluster_jobs.recluster import _sigterm_ends
from cluster_jobs.ray_cluster.local_ray import ray_session
with ray_session(), _sigterm_ends():
    import ray
    task = ray.remote(lambda: time.sleep(600)).remote()
    print("at work", flush=True)
    ray.wait([task], timeout=600)
"""


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    """The environment of somebody who has set nothing."""
    kept = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    return {**kept, "HOME": str(home)}


@pytest.fixture(scope="module")
def held(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Part, dict[str, str]]]:
    """A held Ray, and how to reach it."""
    folder = tmp_path_factory.mktemp("held")
    announcement = folder / "ray.json"
    command = [
        sys.executable,
        "-m",
        "cluster_jobs.ray_cluster.local_ray",
        "--cpus",
        "2",
        "--announce",
    ]
    part = Part(
        "Ray", [*command, str(announcement)], log=folder / "ray.log", environment=environment
    )
    wait_until(lambda: announcement.exists() or part.poll() is not None)
    assert part.poll() is None, part.tail(20)
    yield part, json.loads(announcement.read_text())
    part.stop()


def run_driver(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=90, check=False
    )


def test_another_process_connects_with_what_was_announced(
    held: tuple[Part, dict[str, str]], environment: dict[str, str]
) -> None:
    result = run_driver(WITHIN_SESSION, {**environment, **held[1]})
    assert result.stdout == "2 42\n", result.stderr


def test_it_listens_on_loopback_alone(held: tuple[Part, dict[str, str]]) -> None:
    holder = psutil.Process(held[0].pid)
    processes = holder.children(recursive=True)
    listening = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # workers come and go
            listening += [
                connection.laddr.ip
                for connection in process.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
            ]
    assert len(listening) > 3
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_it_asks_for_a_token_that_only_this_user_can_read(
    held: tuple[Part, dict[str, str]],
) -> None:
    token = Path(held[1]["RAY_AUTH_TOKEN_PATH"])
    assert held[1]["RAY_AUTH_MODE"] == "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert len(token.read_text()) == 64


def test_the_address_that_was_announced_answers(
    held: tuple[Part, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", held[1]["RAY_ADDRESS"])
    check_ray_address()


def test_no_socket_has_a_longer_name_than_foreseen(held: tuple[Part, dict[str, str]]) -> None:
    folder = Path(held[1]["RAY_AUTH_TOKEN_PATH"]).parent / private_folder.RAY
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_socket()]
    assert len(names) >= 2
    assert max(map(len, names)) <= len(private_folder._LONGEST_NAME)


def test_sigterm_interrupts_a_wait_for_a_task(
    held: tuple[Part, dict[str, str]], environment: dict[str, str]
) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", LONG_TASK],
        env={**environment, **held[1]},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "at work\n"
    time.sleep(1)
    driver.send_signal(signal.SIGTERM)
    driver.communicate(timeout=10)
    assert driver.returncode == 0


def test_the_death_of_a_main_process_ends_the_holder(
    held: tuple[Part, dict[str, str]], home: Path
) -> None:
    """The last test of this cluster: afterwards nothing of it is left."""
    part, announced = held
    processes = psutil.Process(part.pid).children(recursive=True)
    (raylet,) = [process for process in processes if process.name() == "raylet"]
    raylet.kill()
    wait_until(lambda: part.poll() is not None, 30)
    assert part.poll() == 1
    assert "Ray's raylet ended" in part.tail(20)
    wait_until(lambda: not any(process.is_running() for process in processes))
    assert not Path(announced["RAY_AUTH_TOKEN_PATH"]).parent.exists()
    assert list(home.iterdir()) == []


def test_a_session_leaves_environment_and_signals_as_they_were(
    environment: dict[str, str],
) -> None:
    code = (
        "import os, signal\n"
        "from cluster_jobs.ray_cluster.local_ray import ray_session\n"
        "handler = lambda number, frame: None\n"
        "signal.signal(signal.SIGTERM, handler)\n"
        "with ray_session(num_cpus=1) as cpus:\n"
        "    assert signal.getsignal(signal.SIGTERM) is handler\n"
        "    assert os.environ['RAY_AUTH_MODE'] == 'token'\n"
        "    with ray_session() as again:\n"
        "        assert again == cpus == 1\n"
        "    folder = os.path.dirname(os.environ['RAY_AUTH_TOKEN_PATH'])\n"
        "left = {'RAY_ADDRESS', 'RAY_AUTH_MODE', 'RAY_AUTH_TOKEN_PATH'} & set(os.environ)\n"
        "assert not left, left\n"
        "assert not os.path.exists(folder)\n"
    )
    result = run_driver(code, environment)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("more", [0, 1])
def test_ray_starts_in_the_longest_place_and_beyond(environment: dict[str, str], more: int) -> None:
    """TMPDIR itself is used up to the length from which on sockets do not fit in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        place = Path(made) / ("x" * (private_folder.longest_place() + more - len(made) - 1))
        place.mkdir()
        result = run_driver(OF_OUR_OWN, {**environment, "TMPDIR": str(place)})
    assert result.stdout == f"1 {1 - more}\n", result.stderr


def test_local_means_a_ray_of_our_own(environment: dict[str, str]) -> None:
    result = run_driver(OF_OUR_OWN, {**environment, "RAY_ADDRESS": "local"})
    assert result.stdout.startswith("1 "), result.stderr


@pytest.mark.parametrize(
    ("free", "memory", "expected"),
    [
        (0, 2**40, 75 * 2**20),
        (2**30, 2**40, int(0.3 * 2**30)),
        (2**40, 2**40, 16 * 2**30),
        (2**40, 2**31, int(0.3 * 2**31)),
    ],
)
def test_the_object_store_fits_shared_memory_and_container(
    monkeypatch: pytest.MonkeyPatch, free: int, memory: int, expected: int
) -> None:
    monkeypatch.setattr(machine, "free_shared_memory_bytes", lambda: free)
    monkeypatch.setattr(local_ray, "memory_bytes", lambda: memory)
    assert local_ray.object_store_bytes() == expected


def test_our_own_ray_has_the_cores_that_a_container_leaves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(local_ray, "num_cores", lambda: 3)
    settings = local_ray._own_settings(tmp_path, 0, dashboard=False, gpus=False)
    assert settings["num_cpus"] == 3


@pytest.mark.parametrize("error", [RuntimeError, TimeoutError, Exception])
def test_a_ray_that_does_not_start_is_a_failure_with_what_is_free(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[Exception]
) -> None:
    """The disk is that of Ray's files, which TMPDIR does not name where it is too long."""

    def init(**settings: object) -> None:
        raise error("the node timed out")

    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(local_ray, "private_folder", lambda: own)
    size = r"[\d.,]+ \w+"
    found = (
        rf"\(the node timed out\). Free are {size} of memory, {size} in {tmp_path}, {size} in /dev"
    )
    with pytest.raises(PartFailed, match=found), local_ray.ray_session():
        pass


def test_a_ray_that_refuses_is_named_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: object) -> None:
        raise RuntimeError("Version mismatch")

    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(local_ray, "check_ray_address", lambda: None)
    monkeypatch.setattr(ray, "init", init)
    found = r"RAY_ADDRESS is head:6379; .*\(Version mismatch\).* unset RAY_ADDRESS"
    with pytest.raises(JobError, match=found), local_ray.ray_session():
        pass
