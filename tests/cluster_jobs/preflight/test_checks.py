"""What is checked before anything starts, without starting anything."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster_jobs import machine
from cluster_jobs.errors import JobError
from cluster_jobs.launch.supervisor import Training
from cluster_jobs.preflight import checks
from cluster_jobs.preflight.checks import Start, warnings_of
from cluster_jobs.preflight.networks import Networks
from data_shards.errors import ClmleError, ConfigError
from data_shards.shards.manifest import Manifest
from tests.cluster_jobs.conftest import TinyRun
from tests.helpers.run_folders import write_checkpoint
from trainer.config.builder import with_settings
from trainer.config.run_config import RunConfig
from trainer.run import deepspeed_version
from trainer.run.claim import claim_folder


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores, no GPU, no Ray, and networks of a thousand numbers."""
    monkeypatch.setattr(checks, "num_cores", lambda: 4)
    monkeypatch.setattr(machine, "cuda_devices", lambda: [])
    monkeypatch.setattr(checks, "has_gpu_file", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(checks, "check_networks", networks_of(1000))


def networks_of(count: int, *warnings: str) -> Any:
    return lambda configs, manifest: Networks((count,) * len(configs), warnings)


def start_of(
    tiny: TinyRun, settings: dict[str, Any] | None = None, *, resume: str = "auto"
) -> Start:
    config = with_settings(tiny.config, settings or {})
    return Start(config, [Training("clmle", config, resume)], tiny.manifest)


def warned(tiny: TinyRun, settings: dict[str, Any] | None = None) -> list[str]:
    return list(warnings_of(start_of(tiny, settings), dry_run=False))


def give_gpus(monkeypatch: pytest.MonkeyPatch, *devices: str) -> None:
    monkeypatch.setattr(machine, "cuda_devices", lambda: list(devices))
    monkeypatch.setattr(checks, "has_gpu_file", lambda: True)


def test_a_deepspeed_that_computes_wrong_gradients_is_refused(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deepspeed_version, "version", lambda name: "0.18.1")
    with pytest.raises(ConfigError, match=r"DeepSpeed 0\.18\.1"):
        warned(tiny)


def test_a_ray_that_does_not_answer_is_an_error_before_the_folder_is_taken(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(JobError, match="where no Ray answers"):
        warned(tiny)
    assert not tiny.run.path.exists()


def test_a_run_that_fits_the_machine_is_not_warned_of(tiny: TinyRun) -> None:
    assert warned(tiny) == []
    assert not tiny.run.path.exists()


def test_a_finished_run_needs_nothing(tiny: TinyRun) -> None:
    config = with_settings(tiny.config, {"cluster.backend": "torch-gpu"})
    assert list(warnings_of(Start(config, [], tiny.manifest), dry_run=False)) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"launch.embed_gpus": 0.5}, "launch.embed_gpus is 0.5, but Ray has no GPU here: embed"),
        ({"launch.threads_per_rank": 3}, "num_ranks=2 of 3 threads share 4 CPU cores"),
        ({"launch.num_ranks": 8, "sampler.micro_batches": 8}, "num_ranks=8 of 1 threads share 4"),
        ({"launch.ray_cpus": 9}, "launch.ray_cpus=9, but there are 4 CPU cores"),
    ],
)
def test_a_wish_that_is_not_met_is_a_warning(
    tiny: TinyRun, settings: dict[str, Any], message: str
) -> None:
    (warning,) = warned(tiny, settings)
    assert re.search(message, warning), warning


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"launch.num_ranks": 3}, "launch.num_ranks 3 does not divide sampler.micro_batches 2"),
        (
            {"evaluation.split": "validation"},
            "has no split 'validation'; name one that it has: train, test",
        ),
        ({"tasks": [{"name": "age", "label": "age"}]}, "have no label 'age'"),
        ({"model.weights": "nowhere"}, "model.weights nowhere cannot be read"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_what_settings_and_data_exclude_is_an_error(
    tiny: TinyRun, settings: dict[str, Any], message: str, dry_run: bool
) -> None:
    with pytest.raises(ClmleError, match=message):
        list(warnings_of(start_of(tiny, settings), dry_run=dry_run))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cluster.backend": "torch-gpu"}, "cluster.backend=torch-gpu needs a GPU"),
        ({"cluster.backend": "faiss-gpu"}, "cluster.backend=faiss-gpu needs a GPU"),
        ({"run.folder": "FILE/run"}, "file: not a folder"),
    ],
)
def test_what_this_machine_excludes_is_an_error_here_and_a_warning_of_a_dry_run(
    tiny: TinyRun, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    (tmp_path / "file").touch()
    if "run.folder" in settings:
        settings = {"run.folder": str(tmp_path / "file" / "run")}
    with pytest.raises(ClmleError, match=message):
        warned(tiny, settings)
    (warning,) = warnings_of(start_of(tiny, settings), dry_run=True)
    assert warning.startswith("it would not start here: ")
    assert message in warning


def test_a_package_that_is_missing_is_named(tiny: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "deepspeed" else "there")
    with pytest.raises(ClmleError, match="not installed: deepspeed; pip install"):
        warned(tiny)


def test_a_folder_of_another_run_is_refused_by_that_and_not_by_its_checkpoint(
    tiny: TinyRun,
) -> None:
    claim_folder(tiny.run, tiny.config, fresh=True)
    write_checkpoint(tiny.config, 5)
    with pytest.raises(ClmleError, match="already holds another run: model.embedding_dim"):
        warned(tiny, {"model.embedding_dim": 16})


def test_a_checkpoint_that_does_not_fit_is_refused_before_anything_starts(
    tiny: TinyRun, tmp_path: Path
) -> None:
    other = {"run.folder": str(tmp_path / "new"), "model.embedding_dim": 16}
    start = start_of(tiny, other, resume=str(write_checkpoint(tiny.config, 5)))
    with pytest.raises(ClmleError, match="is of another network: embedding_dim 8 there, 16 here"):
        list(warnings_of(start, dry_run=False))


def test_networks_are_built_only_where_there_is_no_checkpoint(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def check(configs: Sequence[RunConfig], manifest: Manifest) -> Networks:
        asked.append(len(configs))
        return Networks((1000,) * len(configs), ("bf16 is emulated",) if configs else ())

    monkeypatch.setattr(checks, "check_networks", check)
    assert warned(tiny) == ["bf16 is emulated"]
    claim_folder(tiny.run, tiny.config, fresh=True)
    write_checkpoint(tiny.config, 5)
    assert warned(tiny) == []
    assert asked == [1, 0]


def test_of_gpus_the_ranks_get_as_many_as_there_are(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_gpus(monkeypatch, "0")
    assert warned(tiny, {"launch.embed_gpus": 0.2}) == [
        "launch.num_ranks=2, but there are 1 CUDA devices: 1 ranks train; the batches are the same"
    ]


@pytest.mark.parametrize(
    ("embed_gpus", "installed", "message"),
    [
        (0.0, ["faiss-gpu"], "only with launch.embed_gpus above 0"),
        (0.2, ["faiss-cpu"], "but faiss-cpu is installed"),
        (0.2, ["faiss-gpu"], None),
    ],
)
def test_a_gpu_for_clustering_needs_more_than_a_gpu(
    tiny: TinyRun,
    monkeypatch: pytest.MonkeyPatch,
    embed_gpus: float,
    installed: list[str],
    message: str | None,
) -> None:
    give_gpus(monkeypatch, "0", "1")
    monkeypatch.setattr(checks, "packages_distributions", lambda: {"faiss": installed})
    settings = {"cluster.backend": "faiss-gpu", "launch.embed_gpus": embed_gpus}
    if message is None:
        assert warned(tiny, settings) == []
    else:
        with pytest.raises(ClmleError, match=message):
            warned(tiny, settings)


def test_of_another_ray_nothing_is_known(tiny: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(checks, "check_ray_address", lambda: None)
    wishes = {"cluster.backend": "torch-gpu", "launch.embed_gpus": 0.5, "launch.ray_cpus": 9}
    assert warned(tiny, wishes) == [
        "launch.ray_cpus is ignored: RAY_ADDRESS names a Ray that is running"
    ]


def test_a_disk_that_is_too_small_is_warned_of(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "check_networks", networks_of(2**28))  # 1 GiB of weights
    disk = SimpleNamespace(f_frsize=2**30, f_bavail=9, f_blocks=20, f_files=0, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    (warning,) = warned(tiny)
    assert "9.0 GiB of 20.0 GiB free there" in warning
    assert "take some 10.0 GiB" in warning  # 3 checkpoints of 2 GiB, 4 snapshots
    assert warned(tiny, {"checkpoint.keep": 1}) == []


def test_images_that_are_not_evaluated_are_warned_of(tiny: TinyRun) -> None:
    train = {"train": tiny.manifest.splits["train"]}
    manifest = Manifest(**{**vars(tiny.manifest), "splits": train})
    start = Start(tiny.config, [Training("clmle", tiny.config, "auto")], manifest)
    (warning,) = warnings_of(start, dry_run=False)
    assert warning.endswith("has no test split; nothing is evaluated")
