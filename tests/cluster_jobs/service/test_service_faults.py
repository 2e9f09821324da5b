"""Whatever fails, the real service ends with the same table, or with a clear failure.

In the latter case the old table stays in force.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from benchmarks.fault_site import two_nodes
from cluster_jobs.ray_cluster import local_ray
from cluster_jobs.ray_cluster.executor import RayExecutor
from cluster_jobs.service.metrics import PART
from cluster_jobs.service.refresh import Refresher
from clustering.table import store
from data_shards.atomic import read_json
from data_shards.errors import DataError
from tests.cluster_jobs.conftest import TinyRun
from tests.helpers.image_shards import COLUMN
from tests.helpers.small_disk import fill, make_room, small_disk
from trainer.run.claim import claim_folder
from trainer.run.folder import step_name
from trainer.state.metrics import read_metrics
from trainer.state.snapshot import NetworkDescription, write_snapshot

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LIMIT_SECONDS = 60.0
OLD, NEW = 5, 10


def run_service(
    tiny: TinyRun, fault: str | None = None, *, before: Callable[[Any], None] | None = None
) -> tuple[int, str]:
    """Serve the newest snapshot; (exit code, messages). With a fault of `faulty_service`."""
    module = ["cluster_jobs.recluster"]
    if fault is not None:
        module = ["tests.helpers.faulty_service", fault, str(tiny.run.path.parent)]
    command = [sys.executable, "-m", *module, "--config", str(tiny.config_file), "--once"]
    service = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        if before is not None:
            before(service)
        _, said = service.communicate(timeout=LIMIT_SECONDS)
    finally:
        service.kill()
    return service.returncode, said


def table_bytes(tiny: TinyRun, version: int = NEW) -> bytes:
    return (tiny.run.tables / f"{version:06d}" / f"{COLUMN}.safetensors").read_bytes()


def unpublish(tiny: TinyRun) -> None:
    """As it was before the new table."""
    shutil.rmtree(tiny.run.tables / f"{NEW:06d}")
    (tiny.run.tables / store.LATEST_NAME).write_text(f"{OLD:06d}\n")
    assert store.latest_version(tiny.run.tables) == OLD


def measured(tiny: TinyRun) -> dict[str, float]:
    """The newest scalars of the service."""
    rows = read_metrics(tiny.run.metrics_of(PART))
    return {row["name"].removeprefix(f"{PART}/"): row["value"] for row in rows}


@pytest.fixture(scope="module")
def ray_cpus() -> Iterator[int]:
    """A Ray whose object store is the smallest, and takes what is otherwise sent directly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_ray, "_MOST_STORE_BYTES", local_ray._LEAST_STORE_BYTES)
        patch.setenv("RAY_max_direct_call_object_size", "100")
        with local_ray.ray_session(num_cpus=2) as cpus:
            import ray

            patch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
            yield cpus


@pytest.fixture
def expected(tiny: TinyRun, ray_cpus: int) -> bytes:
    """The table that the newest snapshot gets without a fault; the old one is published."""
    claim_folder(tiny.run, tiny.config, fresh=True)
    refresher = Refresher(tiny.config, tiny.manifest, RayExecutor(tiny.config, cpus=ray_cpus))
    for step in (OLD, NEW):
        refresher.serve(tiny.snapshot(step))
    made = table_bytes(tiny)
    unpublish(tiny)
    shutil.rmtree(tiny.run.embeddings)
    return made


def test_a_worker_that_is_killed_while_embedding(tiny: TinyRun, expected: bytes) -> None:
    code, said = run_service(tiny, "kill_embedding_worker")
    assert (tiny.run.path.parent / "struck").exists()
    assert code == 0, said
    assert "embedding shard 1 of train: its worker was lost" in said
    assert table_bytes(tiny) == expected


def test_a_service_that_is_killed_while_clustering(tiny: TinyRun, expected: bytes) -> None:
    """The next one takes over its embeddings and its finished classes."""
    code, _ = run_service(tiny, "kill_service_after_a_bundle")
    assert code == -signal.SIGKILL
    assert store.latest_version(tiny.run.tables) == OLD
    bundles = list(tiny.run.embeddings.glob(f"{step_name(NEW)}/*/bundles/*"))
    assert len(bundles) == 1
    code, said = run_service(tiny)
    assert code == 0, said
    assert table_bytes(tiny) == expected
    numbers = measured(tiny)
    assert (numbers["reused_shards"], numbers["reused_classes"]) == (4, 1)
    assert not list(tiny.run.embeddings.rglob("bundles")), "nobody needs them any more"


def test_weights_that_are_not_finite(tiny: TinyRun, expected: bytes) -> None:
    description = NetworkDescription.of(tiny.config, {COLUMN: 3})
    state = description.build().state_dict()
    next(v for v in state.values() if v.is_floating_point()).view(-1)[0] = torch.nan
    checksum = tiny.manifest.checksum
    write_snapshot(tiny.run, NEW, state=state, network=description, data_checksum=checksum)
    code, said = run_service(tiny)
    assert code == 2, said
    assert "the embedding of sample " in said
    assert "shard train-00000" in said
    assert "did the training diverge?" in said
    assert "Traceback" not in said
    assert store.latest_version(tiny.run.tables) == OLD
    assert read_json(tiny.run.path / "service.json")["state"] == "failed"


def test_an_object_store_that_others_fill(tiny: TinyRun, expected: bytes) -> None:
    import ray

    size = int(ray.cluster_resources()["object_store_memory"])
    held = [ray.put(np.zeros(size // 8, dtype=np.uint8)) for _ in range(10)]
    code, said = run_service(tiny)
    assert code == 0, said
    assert table_bytes(tiny) == expected
    assert len(held) == 10


@pytest.mark.parametrize("at", ["start", "clustering"])
def test_an_embedding_shard_of_which_a_bit_flips(
    tiny: TinyRun, expected: bytes, ray_cpus: int, at: str
) -> None:
    """Found by its checksum: at the start it is made again; a disk that spoils what was written a
    moment ago is not to be trusted with more, so then the refresh fails.
    """
    damaged = tiny.run.embeddings / step_name(NEW) / COLUMN / "train-000001.npy"

    def flip() -> None:
        content = bytearray(damaged.read_bytes())
        content[200] ^= 1
        damaged.write_bytes(content)

    def on_phase(phase: str, version: int) -> None:
        if phase == at:
            flip()

    snapshot = tiny.snapshot(NEW)
    executor = RayExecutor(tiny.config, cpus=ray_cpus)
    refresher = Refresher(tiny.config, tiny.manifest, executor, on_phase=on_phase)
    if at == "clustering":
        with pytest.raises(DataError, match=r"train-000001.npy is damaged.*embed again"):
            refresher.serve(snapshot)
        assert store.latest_version(tiny.run.tables) == OLD
    else:
        refresher.serve(snapshot)
        flip()
        unpublish(tiny)
    again = Refresher(tiny.config, tiny.manifest, executor).serve(snapshot)
    assert again.reused_shards == 3
    assert table_bytes(tiny) == expected


@pytest.mark.parametrize(
    ("folder", "what"),
    [
        ("embeddings", r"the embeddings of shard train-00000\d to {run}/embeddings/step_000010"),
        ("tables", "the cluster tables {run}/tables/000010"),
    ],
)
def test_a_full_disk(
    tiny: TinyRun, expected: bytes, monkeypatch: pytest.MonkeyPatch, folder: str, what: str
) -> None:
    """It fails to embed or to publish; once there is room, it is caught up with."""
    monkeypatch.delenv("RAY_ADDRESS")  # that one does not see the disk
    place, before = tiny.run.path / folder, tiny.run.path.with_name("before")
    if place.exists():
        place.rename(before)
    with small_disk(place) as disk:
        if before.exists():
            shutil.copytree(before, disk, dirs_exist_ok=True)
        fill(disk)
        code, said = run_service(tiny)
        assert code == 1, said
        named = what.format(run=tiny.run.path)
        assert re.search(
            rf"^error: cannot write {named}: No space left on device \([\d.]+ \w+ of 1.0 MiB free "
            r"there\); make room there, then run the same command again$",
            said,
            re.MULTILINE,
        ), said
        assert "Traceback" not in said
        assert store.versions(tiny.run.tables) == [OLD]
        assert not list(place.rglob(".tmp-*"))
        assert store.latest_version(tiny.run.tables) == OLD
        make_room(disk)
        code, said = run_service(tiny)
        assert code == 0, said
        assert table_bytes(tiny) == expected


def wait_for_embedding(tiny: TinyRun) -> None:
    """Until the fault `impatient_with_ray` holds a call."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (tiny.run.path.parent / "struck").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_ray_that_loses_its_last_cpu(
    tiny: TinyRun, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its head has none; the node that had one is killed while it embeds."""
    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
    with two_nodes(head_cpus=0, **soon) as nodes:
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)

        def kill_node(service: subprocess.Popen[str]) -> None:
            wait_for_embedding(tiny)
            nodes.kill_second()

        code, said = run_service(tiny, "impatient_with_ray", before=kill_node)
    assert code == 1, said
    assert "error: Ray has had no CPU for 2 s: its worker nodes are gone" in said
    assert "Traceback" not in said
    assert store.latest_version(tiny.run.tables) == OLD


def test_a_ray_whose_head_is_gone(
    tiny: TinyRun, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS")  # it would kill that of the other tests

    def kill_head(service: subprocess.Popen[str]) -> None:
        wait_for_embedding(tiny)
        children = psutil.Process(service.pid).children(recursive=True)
        started.extend(children)
        next(child for child in children if child.name() == "gcs_server").kill()

    started: list[psutil.Process] = []
    code, said = run_service(tiny, "impatient_with_ray", before=kill_head)
    assert code == 1, said
    assert "error: Ray has not answered for 2 s" in said
    assert "Traceback" not in said
    assert read_json(tiny.run.path / "service.json")["state"] == "failed"
    assert store.latest_version(tiny.run.tables) == OLD
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive, "Ray's other processes end with the service"
