from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster_jobs.launch.processes import Part, stop_all
from tests.helpers.small_disk import fill, make_room, small_disk

SLEEP = "import time; time.sleep(600)"
IGNORE_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('ready', flush=True); time.sleep(600)"
)
# Starts a grandchild that ignores SIGTERM, prints its id, and ends as asked.
WITH_GRANDCHILD = (
    "import subprocess, sys, time;"
    f"p = subprocess.Popen([sys.executable, '-c', {IGNORE_SIGTERM!r}], start_new_session=True);"
    "print(p.pid, flush=True);"
)


def start(code: str, tmp_path: Path, *, grace_seconds: float = 5.0) -> Part:
    command = [sys.executable, "-c", code]
    return Part("part", command, log=tmp_path / "part.log", grace_seconds=grace_seconds)


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def grandchild_of(part: Part) -> int:
    wait_until(lambda: "ready" in part.tail(9))
    return int(part.tail(9).splitlines()[0])


@pytest.mark.parametrize("environment", [None, {**os.environ, "PYTHONIOENCODING": "ascii:strict"}])
def test_a_part_can_log_any_name(tmp_path: Path, environment: dict[str, str] | None) -> None:
    command = [sys.executable, "-c", r"print('J\xfcrgen b\udce9a')"]
    part = Part("part", command, log=tmp_path / "part.log", environment=environment)
    assert part.wait(10) == 0
    assert part.tail(5) == "Jürgen b\\udce9a"


@pytest.mark.parametrize("code", [0, 1, 7])
def test_the_exit_code_is_the_commands(tmp_path: Path, code: int) -> None:
    part = start(f"import sys; print('bye'); sys.exit({code})", tmp_path)
    assert part.wait(10) == code
    assert part.poll() == code
    assert part.tail(5) == "bye"


def test_a_signal_counts_as_128_and_its_number(tmp_path: Path) -> None:
    part = start("import os; os.kill(os.getpid(), 9)", tmp_path)
    assert part.wait(10) == 128 + signal.SIGKILL


def test_stop_is_polite_first(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3));"
        "print('ready', flush=True); time.sleep(600)"
    )
    part = start(code, tmp_path)
    wait_until(lambda: part.tail(1) == "ready")
    assert part.stop() == 3


def test_a_part_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    part = start(IGNORE_SIGTERM, tmp_path, grace_seconds=0.3)
    wait_until(lambda: part.tail(1) == "ready")
    started = time.monotonic()
    assert part.stop() == 128 + signal.SIGKILL
    assert time.monotonic() - started < 5


def test_a_second_request_is_not_patient(tmp_path: Path) -> None:
    part = start(IGNORE_SIGTERM, tmp_path, grace_seconds=60)
    wait_until(lambda: part.tail(1) == "ready")
    part.terminate()
    time.sleep(0.3)
    part.terminate()
    assert part.wait(10) == 128 + signal.SIGKILL


@pytest.mark.parametrize("ending", ["time.sleep(600)", "sys.exit(0)"])
def test_grandchildren_end_too(tmp_path: Path, ending: str) -> None:
    """Also those in a session of their own, also when their parent ended before them."""
    part = start(WITH_GRANDCHILD + "time.sleep(0.5);" + ending, tmp_path, grace_seconds=0.5)
    grandchild = grandchild_of(part)
    part.stop() if "sleep" in ending else part.wait(10)
    assert not is_alive(grandchild)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
def test_nothing_outlives_a_job_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path;"
        "from cluster_jobs.launch.processes import Part;"
        f"p = Part('part', [sys.executable, '-c', {WITH_GRANDCHILD + 'time.sleep(600)'!r}],"
        f" log=Path({str(tmp_path / 'part.log')!r}), grace_seconds=0.3);"
        "time.sleep(600)"
    )
    job = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "part.log"
    wait_until(lambda: log.exists() and "ready" in log.read_text())
    grandchild = int(log.read_text().splitlines()[0])
    job.kill()
    job.wait()
    wait_until(lambda: not is_alive(grandchild))


def test_a_killed_keeper_takes_its_group_along(tmp_path: Path) -> None:
    part = start("import os, time; print(os.getpid(), os.getppid(), flush=True);" + SLEEP, tmp_path)
    wait_until(lambda: part.tail(1))
    child, reaper = map(int, part.tail(1).split())
    os.kill(reaper, signal.SIGKILL)
    assert part.wait(10) == 128 + signal.SIGKILL
    wait_until(lambda: not is_alive(child))


def test_the_tail_is_of_this_start_only(tmp_path: Path) -> None:
    start("print('first')", tmp_path).wait(10)
    part = start("print('a\\nb\\nc')", tmp_path)
    part.wait(10)
    assert part.tail(2) == "b\nc"
    assert part.tail(99) == "a\nb\nc"
    assert part.log.read_text() == "first\na\nb\nc\n"


def test_a_log_on_a_full_disk_is_the_reason_why_it_says_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "logs") as disk:
        fill(disk)
        command = [sys.executable, "-c", "import sys; sys.exit('too little memory')"]
        part = Part("part", command, log=disk / "part.log")
        code = part.wait(30)
        assert code is not None
        assert code > 0
        assert re.search(
            r"the part failed; the end of its log, .*part\.log:\n.*\n.*its disk is full, 0 B of "
            r"1\.0 MiB free there: make room",
            str(part.failure("failed")),
        )
        make_room(disk)
        assert "disk is full" not in str(part.failure("failed"))


def test_stop_all_stops_side_by_side(tmp_path: Path) -> None:
    parts = [start(IGNORE_SIGTERM, tmp_path / str(i), grace_seconds=0.5) for i in range(3)]
    for part in parts:
        wait_until(lambda part=part: part.tail(1) == "ready")
    stop_all(parts)
    assert [part.poll() for part in parts] == [128 + signal.SIGKILL] * 3
