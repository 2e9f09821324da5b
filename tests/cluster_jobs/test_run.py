"""The launcher's own behaviour, with scripts in the place of trainer and service."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster_jobs import doctor, machine, run
from cluster_jobs.errors import JobError, run_job
from cluster_jobs.launch import command_lines, supervisor, training_progress
from cluster_jobs.preflight import checks
from cluster_jobs.preflight.networks import Networks
from data_shards.atomic import read_json, write_json
from data_shards.shards.manifest import Manifest
from tests.cluster_jobs.conftest import TinyRun
from tests.helpers.run_folders import write_checkpoint
from trainer.config.builder import build_config, with_settings
from trainer.config.run_config import RunConfig
from trainer.config.yaml_file import to_yaml
from trainer.run.claim import claim_folder

REPORT = {
    "loss": "clmle",
    "readout": "knc_margin",
    "balanced_accuracy": {"knc_margin": 0.75, "head": 0.5},
    "per_class_recall": {"knc_margin": [1.0, 0.75, 0.5], "head": [1.0, 0.5, None]},
    "images_seen": 1000,
    "train_seconds": 2.0,
}
# Both get the run's configuration file as their argument.
PROLOGUE = (
    "import os, sys, time; from pathlib import Path; folder = Path(sys.argv[1]).parent;"
    "print('at work', os.getpid(), flush=True);"
)
FINISH = f"(folder / 'report.json').write_text({json.dumps(REPORT)!r});"
SLEEP = "time.sleep(600);"
# As the service: it ends when the report is there.
UNTIL_FINISHED = "\nwhile not (folder / 'report.json').exists(): time.sleep(0.05)"
HANGS = """(folder / 'service.json').write_text('{"state": "embedding", "version": 5}');""" + SLEEP


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What trainer and service do; a test may change it."""
    chosen = {"trainer": FINISH, "service": UNTIL_FINISHED}

    def command(part: str) -> Callable[..., list[str]]:
        def made(config_file: Path, **ignored: Any) -> list[str]:
            return [sys.executable, "-c", PROLOGUE + chosen[part], str(config_file)]

        return made

    monkeypatch.setattr(command_lines, "trainer_command", command("trainer"))
    monkeypatch.setattr(command_lines, "service_command", command("service"))
    monkeypatch.setenv("RAY_ADDRESS", "none is started")
    monkeypatch.setattr(checks, "check_ray_address", lambda: None)
    monkeypatch.setattr(checks, "check_networks", no_networks)
    return chosen


def no_networks(configs: Sequence[RunConfig], manifest: Manifest) -> Networks:
    """In the place of a process that imports torch."""
    return Networks(num_parameters=(1000,) * len(configs), warnings=())


def configure(tiny: TinyRun, settings: dict[str, Any]) -> list[str]:
    tiny.config_file.write_text(to_yaml(with_settings(tiny.config, settings)))
    return ["--config", str(tiny.config_file)]


def pids_in(log: Path) -> list[int]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [int(line.split()[2]) for line in lines if line.startswith("at work")]


def all_gone(tiny: TinyRun) -> bool:
    pids = [pid for log in tiny.run.logs.glob("*.log") for pid in pids_in(log)]
    assert pids
    return not any(psutil.pid_exists(pid) for pid in pids)


def wait_until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def test_a_run_ends_with_a_comparison_and_a_report(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    baselines = {"plain softmax": {"loss.name": "softmax"}}
    command = configure(tiny, {"baselines": baselines})
    assert run_job(run.main, command) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    assert ["clmle", "0.7500", "0.5000", "1,000", "2.0"] in rows
    assert ["c", "6", "0.5000", "0.5000"] in rows
    assert printed.endswith(
        f"report: {tiny.run.report}\ntensorboard --logdir {tiny.run.tensorboard}\n"
    )
    assert read_json(tiny.run.report) == {**REPORT, "baselines": {"plain softmax": REPORT}}
    assert (tiny.run.path / "baselines" / "plain_softmax" / "report.json").exists()
    assert all_gone(tiny)


def test_the_same_command_again_only_shows_the_result(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = configure(tiny, {})
    assert run_job(run.main, command) == 0
    scripts["trainer"] = "sys.exit('must not start')"
    capsys.readouterr()
    assert run_job(run.main, command) == 0
    printed = capsys.readouterr().out
    assert "already finished" in printed
    assert "0.7500" in printed


def test_a_finished_run_with_other_settings_is_refused_and_a_dry_run_says_so(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = configure(tiny, {})
    assert run_job(run.main, command) == 0
    other = [*command, "--set", "run.seed=7"]
    assert run_job(run.main, other) == 2
    assert "already holds another run: run.seed" in capsys.readouterr().err
    assert run_job(run.main, [*other, "--dry-run"]) == 0
    assert "would not start here: the run folder" in capsys.readouterr().err


def test_a_baseline_that_is_added_later_is_trained_alone(
    tiny: TinyRun, scripts: dict[str, str]
) -> None:
    assert run_job(run.main, configure(tiny, {})) == 0
    trained = len(pids_in(tiny.run.logs / "trainer.log"))
    command = configure(tiny, {"baselines": {"softmax": {"loss.name": "softmax"}}})
    assert run_job(run.main, command) == 0
    assert set(read_json(tiny.run.report)["baselines"]) == {"softmax"}
    assert len(pids_in(tiny.run.logs / "trainer.log")) == trained


def test_resuming_from_a_path_trains_the_run_again_and_no_baseline(
    tiny: TinyRun, scripts: dict[str, str]
) -> None:
    command = configure(tiny, {"baselines": {"softmax": {"loss.name": "softmax"}}})
    assert run_job(run.main, command) == 0
    assert run_job(run.main, [*command, "--resume", str(write_checkpoint(tiny.config, 5))]) == 0
    assert len(pids_in(tiny.run.logs / "trainer.log")) == 2
    baseline = tiny.run.path / "baselines" / "softmax" / "logs" / "trainer.log"
    assert len(pids_in(baseline)) == 1


def test_a_wrong_path_to_resume_from_costs_nothing(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = configure(tiny, {})
    assert run_job(run.main, command) == 0
    report = tiny.run.report.read_bytes()
    scripts["trainer"] = "sys.exit('must not start')"
    capsys.readouterr()
    assert run_job(run.main, [*command, "--resume", "somewhere/step_000005"]) == 2
    said = capsys.readouterr().err
    assert "--resume somewhere/step_000005: no complete checkpoint there" in said
    assert "must not start" not in said
    assert tiny.run.report.read_bytes() == report


def test_an_old_report_is_no_end_of_a_training_that_goes_on(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither for the service, which starts when the trainer has removed it, nor for the run."""
    claim_folder(tiny.run, tiny.config, fresh=False)
    command = [*configure(tiny, {}), "--resume", str(write_checkpoint(tiny.config, 5))]
    write_json(tiny.run.report, REPORT)
    remove = "time.sleep(1); (folder / 'report.json').unlink(); time.sleep(1);"
    scripts["trainer"] = remove + FINISH
    scripts["service"] = "assert not (folder / 'report.json').exists()" + UNTIL_FINISHED
    assert run_job(run.main, command) == 0
    scripts["trainer"] = "pass"
    assert run_job(run.main, command) == 1
    assert "the trainer failed (exit code 0)" in capsys.readouterr().err


def test_a_service_that_hangs_is_noticed(
    tiny: TinyRun,
    scripts: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_SILENCE_SECONDS", 1.0)
    scripts |= {"trainer": SLEEP, "service": HANGS}
    assert run_job(run.main, configure(tiny, {})) == 1
    said = capsys.readouterr().err
    assert "the clustering service hangs: its heartbeat, " in said
    assert "was not renewed for 1 s (last state: embedding)" in said
    assert all_gone(tiny)


def test_a_service_that_hangs_is_started_again_if_the_run_may_go_on(
    tiny: TinyRun,
    scripts: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(supervisor, "LONGEST_SILENCE_SECONDS", 1.0)
    log = tiny.run.logs / "service.log"
    scripts |= {
        "trainer": f"log = Path({str(log)!r})\n"
        "while not log.exists() or log.read_text().count('at work') < 2: time.sleep(0.05)\n"
        + FINISH,
        "service": HANGS,
    }
    assert run_job(run.main, configure(tiny, {"refresh.on_late": "continue"})) == 0
    assert capsys.readouterr().err.count("starting it again") == 1
    assert all_gone(tiny)


def test_warnings_in_the_logs_reach_the_screen(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    scripts["trainer"] = "print('10:00:00 rank 0 WARNING small clusters', flush=True);" + FINISH
    assert run_job(run.main, configure(tiny, {})) == 0
    assert capsys.readouterr().err.count("warning: small clusters\n") == 1


def test_it_is_said_what_is_waited_for(
    tiny: TinyRun,
    scripts: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(training_progress, "_EVERY_SECONDS", 0.5)
    metrics = (
        """(folder / 'metrics.jsonl').write_text('{"step": 20, "name": "a", "value": 1}\\n');"""
    )
    scripts["trainer"] = f"time.sleep(2); {metrics} time.sleep(2);" + FINISH
    scripts["service"] = (
        """(folder / 'service.json').write_text('{"state": "embedding", "version": 0}');"""
        """time.sleep(2); (folder / 'service.json').write_text('{"state": "waiting"}');"""
        + UNTIL_FINISHED
    )
    assert run_job(run.main, configure(tiny, {})) == 0
    said = capsys.readouterr().err
    assert "clmle: waiting for table 0 (embedding)\n" in said
    assert "clmle: evaluating\n" in said


def test_a_failed_trainer_is_named_with_the_end_of_its_log(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    scripts |= {
        "trainer": "print('\\n'.join(map(str, range(99)))); sys.exit('rank 1: it broke')",
        "service": SLEEP,
    }
    assert run_job(run.main, configure(tiny, {})) == 1
    said = capsys.readouterr().err
    assert "error: the trainer failed (exit code 1)" in said
    assert str(tiny.run.logs / "trainer.log") in said
    assert "| rank 1: it broke" in said
    assert "| 98" in said
    assert "| 60" not in said
    assert "Traceback" not in said
    assert all_gone(tiny)


def test_an_end_without_a_report_is_a_failure(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """DeepSpeed's launchers can end well although the ranks did not."""
    scripts["trainer"] = "(folder / 'report.json').write_text('{\"half\": ');"
    scripts["service"] = "time.sleep(60)"  # not at its end before the trainer is
    assert run_job(run.main, configure(tiny, {})) == 1
    assert "the trainer failed (exit code 0)" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["sys.exit('no memory')", "sys.exit(0)"])
def test_a_service_that_dies_again_and_again_ends_a_run_that_waits_for_it(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    """Also one that ended well without being done, as after a stray SIGTERM."""
    scripts |= {"trainer": SLEEP, "service": ending}
    started = time.monotonic()
    assert run_job(run.main, configure(tiny, {})) == 1
    assert time.monotonic() - started < 30
    said = capsys.readouterr().err
    assert said.count("starting it again") == 2
    assert "error: the clustering service ended early" in said
    assert ("| no memory" in said) == ("memory" in ending)
    assert all_gone(tiny)


@pytest.mark.parametrize("on_late", ["wait", "continue"])
def test_a_mistake_that_ends_the_service_at_its_start_is_not_repeated(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str], on_late: str
) -> None:
    scripts["service"] = "sys.stderr.write('error: no such thing'); sys.exit(2)"
    goes_on = on_late == "continue"
    scripts["trainer"] = f"time.sleep(3); {FINISH}" if goes_on else SLEEP
    command = configure(tiny, {"refresh.on_late": on_late})
    assert run_job(run.main, command) == (0 if goes_on else 1)
    said = capsys.readouterr().err
    assert "| error: no such thing" in said
    assert "starting it again" not in said
    assert len(pids_in(tiny.run.logs / "service.log")) == 1
    assert all_gone(tiny)


def test_a_mistake_of_a_service_at_work_may_be_none_the_next_time(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A shard that is damaged in the middle, for example, is made again."""
    state = """(folder / 'service.json').write_text('{"state": "embedding", "version": 5}');"""
    scripts["service"] = f"{state} sys.exit(2)"
    scripts["trainer"] = SLEEP
    assert run_job(run.main, configure(tiny, {})) == 1
    assert capsys.readouterr().err.count("starting it again") == 2


def test_a_ray_that_cannot_start_is_tried_once(
    tiny: TinyRun,
    scripts: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fails = [sys.executable, "-c", "import sys; sys.stderr.write('error: no place'); sys.exit(2)"]
    monkeypatch.setattr(command_lines, "ray_command", lambda *options: fails)
    monkeypatch.delenv("RAY_ADDRESS")
    scripts["trainer"] = SLEEP
    assert run_job(run.main, configure(tiny, {})) == 1
    said = capsys.readouterr().err
    assert "the local Ray ended with exit code 2" in said
    assert "| error: no place" in said
    assert "starting it again" not in said


def test_an_old_address_of_ray_is_said_before_anything_starts(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert run_job(run.main, configure(tiny, {})) == 2
    assert "error: RAY_ADDRESS is 127.0.0.1:1, where no Ray answers" in capsys.readouterr().err
    assert not tiny.run.logs.exists()


def test_a_dead_service_is_started_again_if_the_run_may_go_on(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    log = tiny.run.logs / "service.log"
    scripts |= {
        "trainer": f"log = Path({str(log)!r})\n"
        "while not log.exists() or log.read_text().count('at work') < 3: time.sleep(0.05)\n"
        "said = folder / 'service.json'\n"
        "while not said.exists() or 'given up' not in said.read_text(): time.sleep(0.05)\n"
        + FINISH,
        "service": "sys.exit('no memory')",
    }
    assert run_job(run.main, configure(tiny, {"refresh.on_late": "continue"})) == 0
    said = capsys.readouterr().err
    assert said.count("starting it again") == 2
    assert said.count("its table ages from now on") == 1
    assert len(pids_in(log)) == 3
    assert not tiny.run.service.exists(), "it would keep a later training from waiting"


def test_a_part_that_says_nothing_is_not_waited_for_for_ever(
    tiny: TinyRun,
    scripts: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    silent = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(command_lines, "trainer_command", lambda *args, **kwargs: silent)
    command = configure(tiny, {"launch.start_timeout_seconds": 1.0})
    assert run_job(run.main, command) == 1
    assert "the trainer gave no sign of life in 1 s" in capsys.readouterr().err


def test_requests_beyond_the_checkpoint_are_dropped(tiny: TinyRun, scripts: dict[str, str]) -> None:
    command = configure(tiny, {})
    claim_folder(tiny.run, tiny.config, fresh=True)
    for step in (0, 5, 10):
        tiny.snapshot(step)
    write_checkpoint(tiny.config, 5)
    assert run_job(run.main, command) == 0
    assert sorted(p.name for p in tiny.run.snapshots.iterdir()) == ["step_000000", "step_000005"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.shards": "/nowhere"}, "clmle import"),
        ({"data.shards": ""}, "data.shards is not set"),
        ({"tasks": [{"name": "age", "label": "age"}]}, "have no label 'age'"),
        ({"launch.num_ranks": 3}, "does not divide sampler.micro_batches 2"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(
    tiny: TinyRun,
    scripts: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    message: str,
) -> None:
    assert run_job(run.main, configure(tiny, settings)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tiny.run.logs / "trainer.log").exists()


def test_a_taken_port_is_said_before_anything_starts(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_job(run.main, configure(tiny, {"launch.master_port": port})) == 2
    assert f"launch.master_port {port} cannot be used" in capsys.readouterr().err
    assert not tiny.run.logs.exists()


def test_an_ignored_setting_is_warned_of(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = configure(tiny, {"optim.name": "adamw", "optim.momentum": 0.5})
    assert run_job(run.main, command) == 0
    assert "warning: optim.momentum is ignored" in capsys.readouterr().err


def test_of_a_baseline_the_ignored_settings_that_it_names_are_warned_of(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = {"loss.name": "softmax", "loss.reweight_from": 0.2}
    command = configure(tiny, {"sampler.siblings": 1, "baselines": {"plain": baseline}})
    assert run_job(run.main, command) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "ignored" in line]
    told = "baseline plain: loss.reweight_from is ignored: loss.class_weight is none"
    assert warnings == [f"warning: {told}", f"- {told}"], "when it starts, and at the end"


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"model.backbone": "iresnet18"}, True),
        ({"model.backbone": "iresnet18", "launch.embed_gpus": 0.2}, False),
        ({}, False),
    ],
)
def test_a_large_backbone_beside_gpus_is_warned_of_cpu_workers(
    tiny: TinyRun,
    scripts: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    warned: bool,
) -> None:
    monkeypatch.setattr(machine, "cuda_devices", lambda: ["0"])
    assert run_job(run.main, configure(tiny, settings)) == 0
    told = "warning: iresnet18 embeds the training images" in capsys.readouterr().err
    assert told == warned


def test_dry_run_prints_the_configuration_and_touches_nothing(
    tiny: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--config", str(tiny.config_file), "--set", "run.seed=7", "--dry-run"]
    assert run.main(command) == 0
    assert capsys.readouterr().out == to_yaml(with_settings(tiny.config, {"run.seed": 7}))
    assert not tiny.run.path.exists()


def test_a_dry_run_says_what_would_not_work(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*configure(tiny, {"launch.num_ranks": 3}), "--dry-run"]
    assert run_job(run.main, command) == 2
    printed = capsys.readouterr()
    assert "num_ranks: 3" in printed.out
    assert "launch.num_ranks 3 does not divide sampler.micro_batches 2" in printed.err
    assert not tiny.run.path.exists()


def test_the_corrected_command_gets_the_folder_of_a_mistaken_one(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A typo in `--set model.backbone`, say, that was found by the ranks."""
    scripts["trainer"] = "sys.exit('rank 0: error: unknown model.backbone')"
    assert run_job(run.main, configure(tiny, {"model.backbone": "tny"})) == 1
    assert "tny" in tiny.run.config.read_text()
    scripts["trainer"] = FINISH
    assert run_job(run.main, configure(tiny, {})) == 0
    assert "tny" not in tiny.run.config.read_text()


def test_what_was_warned_of_stands_at_the_end_too(
    tiny: TinyRun, scripts: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    scripts["trainer"] = "print('10:00:00 rank 0 WARNING small clusters', flush=True);" + FINISH
    command = configure(tiny, {"launch.threads_per_rank": 1000})
    assert run_job(run.main, command) == 0
    end = capfd.readouterr().err.split("\nwarnings of this run:\n")[1].splitlines()
    assert end[0].startswith("- launch.num_ranks=2 of 1000 threads share")
    assert end[1:] == ["- small clusters"]


def test_it_is_said_where_a_run_resumes(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    claim_folder(tiny.run, tiny.config, fresh=True)
    write_checkpoint(tiny.config, 5)
    assert run_job(run.main, configure(tiny, {})) == 0
    assert "clmle: resuming from step 5 of 20\n" in capsys.readouterr().err


def start_in_background(tiny: TinyRun) -> subprocess.Popen[str]:
    """`clmle run` in a process of its own, with parts that never end."""
    script = PROLOGUE + SLEEP
    code = (
        # Tests that a shell started with & ignore SIGINT, and so would all that they start.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import sys; from cluster_jobs import run; from cluster_jobs.errors import run_job;"
        "from cluster_jobs.preflight import checks, networks;"
        "made = lambda configs, _: networks.Networks((1000,) * len(configs), ());"
        "checks.check_networks = made; checks.check_ray_address = lambda: None;"
        "from cluster_jobs.launch import command_lines;"
        f"part = lambda config_file, **_: [sys.executable, '-c', {script!r}, str(config_file)];"
        "command_lines.trainer_command = command_lines.service_command = part;"
        f"sys.exit(run_job(run.main, ['--config', {str(tiny.config_file)!r}]))"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "RAY_ADDRESS": "none is started"},
        stderr=subprocess.PIPE,
        text=True,
    )
    logs = [tiny.run.logs / name for name in ("trainer.log", "service.log")]
    wait_until(lambda: all(pids_in(log) for log in logs))
    return job


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_signal_ends_everything(tiny: TinyRun, number: signal.Signals, code: int) -> None:
    job = start_in_background(tiny)
    job.send_signal(number)
    _, said = job.communicate(timeout=30)
    assert job.returncode == code, said
    assert ("resumes from the newest checkpoint" in said) == (number != signal.SIGKILL)
    assert "Traceback" not in said
    wait_until(lambda: all_gone(tiny))


def test_two_launchers_do_not_share_a_folder(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    job = start_in_background(tiny)
    try:
        of_the_first = tiny.run.config.read_bytes()
        command = ["--config", str(tiny.config_file), "--set", "launch.ray_cpus=7"]
        assert run_job(run.main, command) == 2
        assert "another `clmle run` is already running in" in capsys.readouterr().err
        assert tiny.run.config.read_bytes() == of_the_first
    finally:
        job.terminate()
        job.communicate(timeout=30)


def test_a_folder_of_something_else_is_left_as_it_was(
    tiny: TinyRun, scripts: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.run.path.mkdir()
    (tiny.run.path / "thesis.txt").touch()
    assert run_job(run.main, configure(tiny, {})) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert [path.name for path in tiny.run.path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("wanted", "neighbourhoods", "devices", "expected"),
    [(2, 2, 0, 2), (1, 2, 0, 1), (4, 8, 2, 2), (4, 4, 3, 2), (2, 2, 8, 2), (4, 4, 1, 1)],
)
def test_ranks_are_as_many_as_wanted_or_as_fit_the_devices(
    wanted: int, neighbourhoods: int, devices: int, expected: int
) -> None:
    config = build_config(
        {"launch": {"num_ranks": wanted}, "sampler": {"micro_batches": neighbourhoods}}
    )
    assert command_lines.num_ranks(config, [str(i) for i in range(devices)]) == expected


def test_a_rank_is_started_on_each_device(tmp_path: Path) -> None:
    """As the launcher of DeepSpeed reads it."""
    for devices, expected in ([], [0, 1]), (["3", "GPU-abc", "5"], ["3", "GPU-abc"]):
        command = command_lines.trainer_command(
            tmp_path, resume="auto", port=1234, ranks=2, devices=devices
        )
        (world,) = [word for word in command if word.startswith("--world_info=")]
        encoded = world.removeprefix("--world_info=")
        assert json.loads(base64.urlsafe_b64decode(encoded)) == {"localhost": expected}
        assert "--master_port=1234" in command


@pytest.mark.parametrize(
    ("count", "visible", "expected"),
    [(0, None, []), (2, None, ["0", "1"]), (2, "4,7", ["4", "7"]), (1, "4,99", ["4"]), (0, "", [])],
)
def test_devices_are_those_that_torch_can_use(
    monkeypatch: pytest.MonkeyPatch, count: int, visible: str | None, expected: list[str]
) -> None:
    def answer(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, stdout=f"{count}\n")

    monkeypatch.delenv("DS_ACCELERATOR")
    monkeypatch.setattr(machine, "has_gpu_file", lambda: True)
    monkeypatch.setattr(machine.subprocess, "run", answer)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.cuda_devices() == expected


@pytest.mark.parametrize(
    ("wanted", "file", "reason"),
    [
        ("cpu", True, "DS_ACCELERATOR=cpu"),
        ("", False, "no GPU's device file in /dev"),
        ("", True, "torch finds no CUDA device"),
    ],
)
def test_it_is_said_why_ranks_are_on_the_cpu(
    tiny: TinyRun,
    scripts: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wanted: str,
    file: bool,
    reason: str,
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", wanted)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine, "has_gpu_file", lambda: file)
    monkeypatch.setattr(machine, "cuda_devices", lambda: [])
    assert run_job(run.main, configure(tiny, {})) == 0
    assert f"ranks on the CPU ({reason}), logs in" in capsys.readouterr().out
    assert doctor._devices().found.endswith(f"ranks run on the CPU ({reason})")


def test_a_choice_of_no_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "")
    monkeypatch.setattr(machine, "has_gpu_file", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert machine.why_on_cpu() == "torch finds no CUDA device of CUDA_VISIBLE_DEVICES=7"


def test_no_part_sees_the_launcher_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    around = ("OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_PROCID", "RANK", "TORCHELASTIC_RUN_ID")
    for name in around:
        monkeypatch.setenv(name, "1")
    ranks = command_lines.trainer_environment(RunConfig(), share=8, on_gpu=False)
    ray_and_service = command_lines.job_environment({"RAY_ADDRESS": "here:1"})
    assert not set(around) & (set(ranks) | set(ray_and_service))
    assert ray_and_service["RAY_ADDRESS"] == "here:1"


def test_no_rank_sees_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    environment = command_lines.trainer_environment(RunConfig(), share=8, on_gpu=False)
    assert not [name for name in environment if name.startswith("RAY_")]
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["DS_ACCELERATOR"] == "cpu"


def test_threads_that_are_set_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = with_settings(RunConfig(), {"launch.threads_per_rank": 6})
    assert command_lines.trainer_environment(config, share=8, on_gpu=True)["OMP_NUM_THREADS"] == "6"
    monkeypatch.delenv("OMP_NUM_THREADS")
    defaults = command_lines.trainer_environment(RunConfig(), share=8, on_gpu=True)
    assert defaults["OMP_NUM_THREADS"] == "8"


def test_a_free_port_is_free_and_a_taken_one_is_not() -> None:
    machine.check_port(machine.free_port())
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(JobError, match="port"):
        machine.check_port(taken.getsockname()[1])


def test_a_name_that_ray_cannot_take_is_said_before_it_starts() -> None:
    machine.check_names(["/tmp/Jürgen", "日本", ""])
    with pytest.raises(JobError, match=r"Ray takes only names in UTF-8, got 'b.udce9' as the work"):
        machine.check_names(["run", "b\udce9"])
