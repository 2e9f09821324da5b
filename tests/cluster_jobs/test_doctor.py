from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from cluster_jobs import doctor, machine
from cluster_jobs.ray_cluster.address import check_ray_address

ROOT = Path(__file__).parents[2]
HEALTHY = {"ok", "warn"}


@pytest.mark.ray
def test_this_machine_is_ready(ray_cpus: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} <= HEALTHY
    assert any("ran a call" in line for line in lines)


@pytest.mark.ray
def test_json_says_the_same(ray_cpus: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {finding["name"] for finding in found} >= {"torch", "faiss", "Ray", "shared memory"}
    assert {finding["state"] for finding in found} <= HEALTHY


def test_one_failure_decides_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = doctor.Finding("fail", "faiss", "not installed", "pip install faiss-cpu")
    monkeypatch.setattr(doctor, "findings", lambda: iter([broken]))
    assert doctor.main([]) == 1
    captured = capsys.readouterr()
    assert captured.out == "fail  faiss: not installed; pip install faiss-cpu\n"
    assert captured.err == "not ready: faiss\n"


def test_every_dependency_is_looked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[^\w-]", wanted)[0] for wanted in project["dependencies"]]
    # torch is loaded as well, ninja is looked for as a program.
    assert sorted([*doctor._NEEDED, "torch", "ninja"]) == sorted(names)


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        ({}, "not installed"),
        ({"faiss-cpu": "1.0", "faiss-gpu": "1.0"}, "faiss-cpu 1.0 and faiss-gpu 1.0"),
    ],
)
def test_faiss_must_be_there_once(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], found: str
) -> None:
    monkeypatch.setattr(doctor, "_version", installed.get)
    finding = doctor._faiss()
    assert (finding.state, finding.found) == ("fail", found)
    assert "install" in finding.remedy


def test_a_package_that_does_not_load_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: str) -> None:
        raise ImportError("libgomp.so.1 is missing")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    finding = doctor._loaded("faiss", "faiss-cpu 1.0")
    assert finding.state == "fail"
    assert "libgomp.so.1" in finding.found


def test_a_folder_that_cannot_be_written_to_is_a_failure(tmp_path: Path) -> None:
    assert doctor._folder("runs", tmp_path).state in HEALTHY
    finding = doctor._folder("runs", tmp_path / "missing")
    assert finding.state == "fail"
    assert "run.folder" in finding.remedy


def test_little_shared_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_shared_memory_bytes", lambda: 64 * 2**20)
    finding = doctor._shared_memory()
    assert finding.state == "warn"
    assert "--shm-size" in finding.remedy


@pytest.mark.parametrize(("gib", "state"), [(1, "warn"), (4, "ok")])
def test_memory_for_a_worker_of_each_core(
    monkeypatch: pytest.MonkeyPatch, gib: int, state: str
) -> None:
    monkeypatch.setattr(doctor, "num_cores", lambda: 4)
    monkeypatch.setattr(doctor, "memory_bytes", lambda: gib * 2**30)
    finding = doctor._memory()
    assert (finding.state, finding.found) == (state, f"{gib}.0 GiB for 4 cores")
    assert ("launch.ray_cpus" in finding.remedy) == (state == "warn")


def test_the_cores_of_a_container_are_told_from_those_of_its_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "num_cores", lambda: 2)
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 64)
    assert doctor._devices().found.startswith("2 of 64 cores")


def test_an_address_where_nobody_answers_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def checked(**settings: object) -> None:
        check_ray_address()

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(doctor, "ray_session", checked)  # another test may be connected
    finding = doctor._ray()
    assert finding.state == "fail"
    assert finding.found.startswith("RAY_ADDRESS is 127.0.0.1:1, where no Ray answers")


def test_a_ray_that_breaks_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**settings: object) -> None:
        raise TimeoutError("no call returned")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(doctor, "ray_session", broken)
    finding = doctor._ray()
    assert finding.state == "fail"
    assert finding.found == "a local cluster does not work (no call returned)"
