"""Kill parts of the clustering service at random times, and compare its table.

    python -m benchmarks.faults --runs 40 --seed 0 --out FILE [--scale S]

The real service works on a Ray of two nodes. Each run kills one of: a Ray worker that embeds, one
that clusters, the service itself (which is started again), the second node. It must end within a
minute after that, with the table of an undisturbed run byte for byte, or with a clear failure and
the old table in use; otherwise the exit code is 1. Writes JSON
`{"figures": [{"name", "value", "unit", "target", "detail"}]}`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

for _name, _value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}.items():
    os.environ.setdefault(_name, _value)

from benchmarks.fault_site import (  # noqa: E402 - the environment comes first
    NEW_STEP,
    Site,
    TwoNodes,
    make_site,
    ray_workers,
    two_nodes,
    write_request,
)
from benchmarks.measure import Figure  # noqa: E402
from data_shards.atomic import read_json  # noqa: E402
from data_shards.errors import DataError  # noqa: E402
from data_shards.paths import path_option  # noqa: E402
from data_shards.shards.manifest import Manifest  # noqa: E402

LIMIT_SECONDS = 60.0
"""From the kill to the end; a run that takes longer hangs."""
VICTIMS = ("embedder", "service", "node", "clusterer")
SAME, CLEAR, UNCLEAR, DIFFERENT, HUNG = (
    "same table",
    "clear failure",
    "unclear failure",
    "other table",
    "hung",
)
_POLL_SECONDS = 0.01
# Fraction of the undisturbed seconds in which there is such a victim; the rest is Ray's shutdown.
_ALIVE_FRACTION = {"embedder": 0.4, "service": 0.8, "node": 0.8, "clusterer": 0.6}
_EMBEDDING = "embed_one_shard"
_MOST_ATTEMPTS = 4  # of each run, to kill in time


@dataclass(frozen=True)
class Undisturbed:
    """The reference run."""

    digest: str
    seconds: float
    """From the first sign of life to the end."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    victim: str
    what: str
    """The victim in words, and when it was killed."""
    result: str
    seconds: float
    """From the kill to the end."""
    said: str
    """The last line of the service."""

    def __str__(self) -> str:
        said = f": {self.said}" if self.result != SAME else ""
        return f"{self.what:56} {self.result:15} {self.seconds:5.1f} s later{said}"


def prepare(folder: Path, nodes: TwoNodes, scale: float) -> tuple[Site, Undisturbed]:
    """Make the run and its old table, then the new one undisturbed.

    Raises:
        RuntimeError: the service failed although nothing was killed.
    """
    site = make_site(folder, scale=scale)
    write_request(site, Manifest.load(site.config.data.shards), NEW_STEP)
    copy = site.copy("undisturbed")
    service = copy.start_service(nodes.address)
    _wait_for_heartbeat(copy, service)
    started = time.monotonic()
    _wait_for_success(service)
    digest = copy.table_digest()
    assert digest is not None
    return site, Undisturbed(digest, time.monotonic() - started)


def disturb(
    site: Site, nodes: TwoNodes, expected: Undisturbed, *, victim: str, delay: float, name: str
) -> Outcome | None:
    """One run.

    Args:
        site: to copy.
        nodes: its Ray.
        expected: what an undisturbed run makes.
        victim: one of `VICTIMS`.
        delay: seconds from the service's first sign of life to the kill, or a little more: until
            there is such a victim.
        name: of the copy.

    Returns:
        None when the service had done its work before anything could be killed.
    """
    nodes.mend()
    copy = site.copy(name)
    service = copy.start_service(nodes.address)
    _wait_for_heartbeat(copy, service)
    begun = time.monotonic()
    _sleep_while_running(service, delay)
    # It may have finished its work, and be about to leave Ray.
    killed = None if _state(copy) == "done" else _kill(victim, nodes, service)
    if killed is None:
        service.communicate(timeout=LIMIT_SECONDS)
        return None
    struck = time.monotonic()
    what = f"{killed} killed {struck - begun:.1f} s after the start ({_state(copy)})"
    if victim == "service":
        service.communicate(timeout=LIMIT_SECONDS)
        service = copy.start_service(nodes.address)
    try:
        _, errors = service.communicate(timeout=LIMIT_SECONDS - (time.monotonic() - struck))
    except subprocess.TimeoutExpired:
        service.kill()
        _, errors = service.communicate()
        result = HUNG
    else:
        result = _judge(copy, expected, service.returncode, errors)
    said = errors.strip().rpartition("\n")[2]
    return Outcome(victim, what, result, time.monotonic() - struck, said)


def _judge(site: Site, expected: Undisturbed, code: int, errors: str) -> str:
    if code == 0:
        return SAME if site.table_digest() == expected.digest else DIFFERENT
    if not site.old_table_is_in_force():
        return DIFFERENT
    # How every job ends that knows what is wrong.
    return CLEAR if "\nerror: " in f"\n{errors}" else UNCLEAR


def _kill(victim: str, nodes: TwoNodes, service: subprocess.Popen[str]) -> str | None:
    """Kill it as soon as it is there; what was killed, or None if the service ended before."""
    end = time.monotonic() + LIMIT_SECONDS
    while service.poll() is None:
        if time.monotonic() > end:
            raise TimeoutError(f"no {victim} to kill within {LIMIT_SECONDS:g} s")
        if victim == "service":
            service.kill()
            return "the service"
        if victim == "node":
            nodes.kill_second()
            return "the second node"
        for process, doing in random.sample(workers := ray_workers(), len(workers)):
            if doing != "IDLE" and (doing == _EMBEDDING) == (victim == "embedder"):
                process.kill()
                return f"a worker at {doing}"
        time.sleep(_POLL_SECONDS)
    return None


def _wait_for_heartbeat(site: Site, service: subprocess.Popen[str]) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while _state(site) is None and service.poll() is None:
        if time.monotonic() > end:
            raise TimeoutError(f"the service gave no sign of life within {LIMIT_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


def _state(site: Site) -> str | None:
    try:
        return str(read_json(site.run.path / "service.json")["state"])
    except DataError:
        return None


def _sleep_while_running(service: subprocess.Popen[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and service.poll() is None:
        time.sleep(_POLL_SECONDS)


def _wait_for_success(service: subprocess.Popen[str]) -> None:
    _, errors = service.communicate(timeout=3 * LIMIT_SECONDS)
    if service.returncode:
        raise RuntimeError(f"the undisturbed service failed: {errors}")


def run_all(runs: int, *, seed: int, scale: float) -> list[Outcome]:
    """Do the runs; prints a line for each."""
    rng = random.Random(seed)
    random.seed(seed)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder, two_nodes() as nodes:
        site, expected = prepare(Path(folder), nodes, scale)
        print(f"undisturbed: {expected.seconds:.1f} s, table {expected.digest[:12]}", flush=True)
        for attempt in range(_MOST_ATTEMPTS * runs):
            victim = VICTIMS[len(outcomes) % len(VICTIMS)]
            outcome = disturb(
                site,
                nodes,
                expected,
                victim=victim,
                delay=rng.uniform(0.0, expected.seconds) * _ALIVE_FRACTION[victim],
                name=f"run-{attempt}",
            )
            if outcome is not None:
                outcomes.append(outcome)
                print(f"{len(outcomes):3} {outcome}", flush=True)
            if len(outcomes) == runs:
                return outcomes
    raise RuntimeError(f"only {len(outcomes)} of {runs} kills came in time; is the data too small?")


def summary(outcomes: Sequence[Outcome]) -> str:
    """The last line."""
    numbers = {r: _count(outcomes, r) for r in (SAME, CLEAR, UNCLEAR, DIFFERENT, HUNG)}
    return (
        f"{len(outcomes)} runs: {numbers[SAME]} same table, {numbers[CLEAR]} clear failures, "
        f"{numbers[UNCLEAR]} unclear failures, {numbers[DIFFERENT]} other table, "
        f"{numbers[HUNG]} hung"
    )


def figures(outcomes: Sequence[Outcome]) -> list[Figure]:
    """What is kept of the runs."""
    seconds = [outcome.seconds for outcome in outcomes]
    victims = ", ".join(f"{sum(o.victim == v for o in outcomes)} {v}" for v in VICTIMS)
    counts = [
        Figure(
            f"faults_{result.replace(' ', '_')}",
            _count(outcomes, result),
            "runs",
            target,
            f"of {len(outcomes)}",
        )
        for result, target in (
            (SAME, ""),
            (CLEAR, ""),
            (UNCLEAR, "0"),
            (DIFFERENT, "0"),
            (HUNG, "0"),
        )
    ]
    return [
        Figure("faults_runs", len(outcomes), "runs", "", f"killed: {victims}"),
        *counts,
        Figure(
            "faults_seconds_to_end",
            statistics.median(seconds),
            "s",
            f"<= {LIMIT_SECONDS:g}",
            f"from the kill to the end; longest {max(seconds):.1f} s",
        ),
    ]


def _count(outcomes: Sequence[Outcome], result: str) -> int:
    return sum(outcome.result == result for outcome in outcomes)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=40, help="how many kills (default: 40)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of every random choice (default: 0)"
    )
    parser.add_argument("--out", type=path_option, required=True, help="JSON file to write")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the sizes of the data")
    options = parser.parse_args(argv)
    if options.runs < 1:
        parser.error(f"--runs must be >= 1, got {options.runs}")
    outcomes = run_all(options.runs, seed=options.seed, scale=options.scale)
    print(summary(outcomes))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"seed": options.seed, "figures": [asdict(f) for f in figures(outcomes)]}
    options.out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return int(any(_count(outcomes, bad) for bad in (UNCLEAR, DIFFERENT, HUNG)))


if __name__ == "__main__":
    sys.exit(main())
