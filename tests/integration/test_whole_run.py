"""The commands of the README on the smallest data: import, run, evaluate, and the parts apart."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import yaml

from cluster_jobs import cli
from tests.helpers.ranks import free_port
from trainer.state.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.ray]

ROOT = Path(__file__).parents[2]
READOUT_ORDER = {"knc_margin", "knc_soft", "knc_balanced", "ncm", "blend", "head"}
REPORTED = {
    "balanced_accuracy",
    "per_class_recall",
    "tables_published",
    "table_switches",
    "refresh_stall_seconds",
    "refresh_stall_fraction",
    "images_per_second",
    "train_seconds",
    "world_size",
    "seed",
    "versions",
}
SETTINGS = {
    "recipe": "none",
    "data": {"shift": 1},
    "model": {"input_size": 16, "embedding_dim": 16},
    "sampler": {"micro_batches": 2, "micro_batch_size": 30, "images_per_cluster": 3},
    "cluster": {"target_size": 20},
    "refresh": {"every": 10, "lag": 3, "timeout_seconds": 120},
    "train": {"steps": 32, "log_every": 4},
    "evaluation": {"every": 16},
    "launch": {"num_ranks": 2},
}


def clmle(*arguments, env=None, timeout=300):
    return subprocess.run(
        [sys.executable, "-m", "cluster_jobs.cli", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def succeeded(result):
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def config_file(folder):
    options = ["--long-tail-ratio", "20", "--samples-per-shard", "200"]
    assert cli.main(["import", "digits", "--out", str(folder / "data"), *options]) == 0
    settings = {
        **SETTINGS,
        "run": {"folder": str(folder / "run")},
        "data": {**SETTINGS["data"], "shards": str(folder / "data")},
        "baselines": {
            "re-sampled softmax": {"loss.name": "softmax", "sampler.sampling": "class_balanced"}
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def finished(config_file):
    """One `clmle run`, looked at by the tests below."""
    before = set(processes_of_this_network())
    result = succeeded(clmle("run", "--config", config_file))
    return result, [p for p in processes_of_this_network() if p not in before]


def processes_of_this_network():
    """Processes in the network namespace of the tests: what they started, and what that started."""
    mine = os.readlink("/proc/self/ns/net")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.readlink(f"/proc/{process.pid}/ns/net") == mine:
                found.append(process)
    return found


@pytest.fixture(scope="module")
def report(folder, finished):
    return json.loads((folder / "run" / "report.json").read_text())


def test_the_report_is_complete(report):
    assert set(report) >= REPORTED
    assert set(report["balanced_accuracy"]) == READOUT_ORDER
    assert all(0 < value <= 1 for value in report["balanced_accuracy"].values())
    assert all(len(recalls) == 10 for recalls in report["per_class_recall"].values())
    assert report["classes"]["digit"]["names"] == [str(digit) for digit in range(10)]
    assert report["world_size"] == 2
    assert set(report["baselines"]["re-sampled softmax"]["balanced_accuracy"]) == READOUT_ORDER


def test_tables_were_switched_to_lag_steps_after_their_snapshots(report):
    assert report["table_switches"] == [[0, 0], [13, 10], [23, 20], [32, 32]]
    assert report["tables_published"] == 4


def test_the_end_of_the_output_tells_where_to_look(finished, folder):
    output = finished[0].stdout
    assert str(folder / "run" / "report.json") in output
    assert f"tensorboard --logdir {folder / 'run' / 'tensorboard'}" in output
    assert "re-sampled softmax" in output


def test_nothing_that_was_started_is_left(finished):
    assert finished[1] == []


def test_the_metrics_follow_the_run(folder, finished):
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    versions = [(r["step"], r["value"]) for r in rows if r["name"] == "table/version"]
    assert (12, 0) in versions
    assert (16, 10) in versions
    assert {r["name"] for r in rows} >= {
        "train/loss",
        "train/images_per_second",
        "table/age_steps",
        "evaluation/balanced_accuracy/knc_soft",
    }
    assert list((folder / "run" / "tensorboard").glob("events.out.tfevents.*"))


def test_the_same_command_again_says_that_it_is_done(config_file, finished, report, folder):
    again = succeeded(clmle("run", "--config", config_file))
    assert "re-sampled softmax" in again.stdout
    assert json.loads((folder / "run" / "report.json").read_text()) == report


def test_evaluate_gives_the_numbers_of_the_run(config_file, report, folder):
    succeeded(clmle("evaluate", "--config", config_file))
    written = json.loads((folder / "run" / "evaluation" / "step_000032.json").read_text())
    assert written["balanced_accuracy"] == report["balanced_accuracy"]
    assert written["per_class_recall"] == report["per_class_recall"]


def test_a_folder_of_another_run_is_refused(config_file, finished):
    result = clmle("run", "--config", config_file, "--set", "loss.scale=8")
    assert result.returncode != 0
    assert "already holds another run" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_parts_apart_give_the_same_numbers(config_file, report, folder):
    """A Ray cluster, the service as a job on it, and DeepSpeed started by hand."""
    port, dashboard = free_port(), free_port()
    bin_folder = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}
    sockets = tempfile.mkdtemp(prefix="ray-")  # short: the path of a socket has 107 bytes at most
    head_command = [
        *(bin_folder / "ray", "start", "--head", "--block", "--disable-usage-stats"),
        *("--port", str(port), "--dashboard-port", str(dashboard), "--num-cpus", "2"),
        *("--node-ip-address", "127.0.0.1", "--object-store-memory", "78643200"),
        *("--temp-dir", sockets),
    ]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(
            head_command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    apart = folder / "apart"
    same = ["--config", str(config_file), "--set", f"run.folder={apart}"]
    training = subprocess.Popen(  # it waits for its first table, and starts as slowly as Ray
        [bin_folder / "deepspeed", "--num_gpus", "2", "--module", "trainer.train", *same],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        service = _submitted(bin_folder, dashboard, same, env)
        output, _ = training.communicate(timeout=240)
        assert training.returncode == 0, output
        output, _ = service.communicate(timeout=60)
        assert service.returncode == 0, output
    finally:
        if training.poll() is None:
            _end_group(training)
        _end_group(head)
        shutil.rmtree(sockets, ignore_errors=True)
    mine = json.loads((apart / "report.json").read_text())
    for name in ("balanced_accuracy", "per_class_recall", "table_switches"):
        assert mine[name] == report[name], name


def _submitted(bin_folder, dashboard, same, env):
    """Submit the clustering service, as soon as the cluster takes jobs."""
    address = f"http://127.0.0.1:{dashboard}"
    command = [
        *(bin_folder / "ray", "job", "submit", "--address", address, "--working-dir", "."),
        *("--", sys.executable, "-m", "cluster_jobs.recluster", *same),
    ]
    wait = (
        "import sys, time, urllib.request\n"
        "end = time.time() + 60\n"
        "while time.time() < end:\n"
        "    try:\n"
        f"        urllib.request.urlopen('{address}/api/version', timeout=1); sys.exit(0)\n"
        "    except OSError:\n"
        "        time.sleep(0.5)\n"
        "sys.exit('the dashboard does not answer')\n"
    )
    subprocess.run([sys.executable, "-c", wait], check=True, timeout=90)
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _end_group(process):
    group = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    psutil.wait_procs(group, timeout=15)
    for child in group:
        if child.is_running():
            child.kill()
    process.wait(timeout=15)
