"""Calls on a share of a GPU, with stand-ins for Ray's answers: no GPU is needed."""

from __future__ import annotations

from typing import Any

import pytest
import ray
import torch

from cluster_jobs.launch import command_lines
from cluster_jobs.ray_cluster import executor, local_ray
from cluster_jobs.ray_cluster.executor import RayExecutor, call_resources
from cluster_jobs.service import work_items
from cluster_jobs.service.counting import count_split
from cluster_jobs.service.embedding import embed_works
from cluster_jobs.service.refresh import Refresher
from cluster_jobs.service.service import Service
from data_shards.errors import ConfigError
from tests.cluster_jobs.conftest import TinyRun
from trainer.config.builder import with_settings


@pytest.mark.parametrize(
    ("cpus", "there", "wanted", "expected"),
    [
        (8, 0.0, 0.0, (8, 0.0)),
        (8, 2.0, 0.0, (8, 0.0)),
        (8, 0.0, 0.5, (8, 0.0)),
        (8, 2.0, 0.5, (4, 0.5)),
        (8, 2.0, 0.4, (4, 0.4)),
        (2, 4.0, 0.25, (2, 0.25)),
        (8, 2.0, 1.0, (2, 1.0)),
        (0, 0.0, 0.0, (3, 0.0)),
        (0, 2.0, 0.25, (3, 0.25)),
        (0, 2.0, 1.0, (2, 1.0)),
    ],
)
def test_as_many_calls_as_fit(
    monkeypatch: pytest.MonkeyPatch,
    cpus: int,
    there: float,
    wanted: float,
    expected: tuple[int, float],
) -> None:
    resources = {"CPU": 3.0} | ({"GPU": there} if there else {})
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    assert call_resources(cpus, wanted) == expected


def test_a_cluster_without_a_cpu_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """`watched_ray` ends the wait."""
    monkeypatch.setattr(ray, "cluster_resources", dict)
    assert call_resources(0, 0.0) == (1, 0.0)


def test_each_refresh_uses_the_cpus_that_are_there_then(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def stop_here(*args: Any, num_at_once: int, **others: Any) -> Any:
        asked.append(num_at_once)
        raise InterruptedError

    monkeypatch.setattr(executor, "run_calls", stop_here)
    served = Service(tiny.config, tiny.manifest, RayExecutor(tiny.config))
    tiny.snapshot(5)
    for cpus in (1.0, 16.0, 4.0):
        monkeypatch.setattr(ray, "cluster_resources", lambda cpus=cpus: {"CPU": cpus})
        with pytest.raises(InterruptedError):
            served.serve_once()
    assert asked == [1, 16, 4]


def test_the_share_reaches_the_calls(tiny: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def stop_here(*args: Any, num_at_once: int, num_gpus: float, **others: Any) -> Any:
        asked.append((num_at_once, num_gpus))
        raise InterruptedError

    monkeypatch.setattr(executor, "run_calls", stop_here)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 1.0})
    config = with_settings(tiny.config, {"launch.embed_gpus": 0.5})
    on_ray = RayExecutor(config, cpus=4)
    with pytest.raises(InterruptedError):
        Refresher(config, tiny.manifest, on_ray).serve(tiny.snapshot(5))
    with pytest.raises(InterruptedError):
        count_split([], on_ray)
    assert asked == [(2, 0.5), (2, 0.5)]


@pytest.mark.parametrize(("ids", "device"), [([], "cpu"), ([0], "cuda"), (["GPU-abc"], "cuda")])
def test_a_call_uses_the_gpu_that_it_got(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch, ids: list[Any], device: str
) -> None:
    moved = []

    def to(network: torch.nn.Module, where: str) -> torch.nn.Module:
        moved.append(where)
        return network

    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: ids)
    work_items._network.cache_clear()
    (work, *_) = embed_works(
        tiny.config, tiny.manifest, tiny.snapshot(5), split="test", out=tiny.run.path / "out"
    )
    assert not work_items.embed_one_shard(work).reused
    assert moved == [device]
    work_items._network.cache_clear()


def test_our_own_ray_hands_out_gpus_only_if_asked(tiny: TinyRun) -> None:
    for share, flag, announced in ((0.0, False, 0), (0.5, True, None)):
        config = with_settings(tiny.config, {"launch.embed_gpus": share})
        assert ("--gpus" in command_lines.ray_command(config, tiny.run.path)) == flag
        settings = local_ray._own_settings(tiny.run.path, 1, dashboard=False, gpus=flag)
        assert settings["num_gpus"] is announced or settings["num_gpus"] == announced


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_is_a_share(tiny: TinyRun, share: float) -> None:
    with pytest.raises(ConfigError, match="launch.embed_gpus must be in"):
        with_settings(tiny.config, {"launch.embed_gpus": share})
