"""A small run for fault injection: repeated digits, snapshots of an untrained network, own Ray.

Legend: N images.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from sklearn.datasets import load_digits

from cluster_jobs.ray_cluster.private_folder import private_folder
from cluster_jobs.service.executor import LocalExecutor
from cluster_jobs.service.refresh import Refresher
from clustering.table import store
from data_shards.images.transforms import encode_png
from data_shards.shards.manifest import Manifest, SplitInfo
from data_shards.shards.sample import Sample
from data_shards.shards.writer import write_shard
from trainer.config.builder import build_config
from trainer.config.run_config import RunConfig
from trainer.config.yaml_file import to_yaml
from trainer.run.claim import claim_folder
from trainer.run.folder import RunFolder, step_name
from trainer.state.snapshot import NetworkDescription, read_snapshot, write_snapshot

COLUMN = "digit"
OLD_STEP, NEW_STEP = 0, 10
_IMAGES_PER_SHARD = 500
# More than a worker may hold, and more than a chunk: it is partitioned over all workers.
_LARGE_CLASS, _SMALL_CLASS = 9_000, 350
_STORE_BYTES = 80 << 20


@dataclass(frozen=True)
class Site:
    """A run with the table of an old snapshot, and the request for a new one."""

    config: RunConfig

    @property
    def run(self) -> RunFolder:
        """Its folder."""
        return RunFolder(self.config.run_path)

    @property
    def config_file(self) -> Path:
        """For the service's command line."""
        return self.run.path.parent / f"{self.run.path.name}.yaml"

    def copy(self, name: str) -> Site:
        """The same under another name."""
        copy = Site(_config(self.run.path.parent, self.config.data.shards, name))
        shutil.copytree(self.run.path, copy.run.path, ignore=shutil.ignore_patterns("service*"))
        copy.config_file.write_text(to_yaml(copy.config), encoding="utf-8")
        copy.run.config.write_text(to_yaml(copy.config), encoding="utf-8")
        return copy

    def start_service(self, address: str | None = None) -> subprocess.Popen[str]:
        """The real service, for the newest snapshot; on a Ray of its own without an address."""
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        if address is not None:
            environment["RAY_ADDRESS"] = address
        command = [sys.executable, "-m", "cluster_jobs.recluster", "--once"]
        return subprocess.Popen(
            [*command, "--config", str(self.config_file)],
            env=environment,
            stdout=subprocess.DEVNULL,  # Ray repeats worker messages there
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def table_digest(self) -> str | None:
        """Checksum of the arrays of the new table; None while there is none."""
        if store.latest_version(self.run.tables) != NEW_STEP:
            return None
        store.load(self.run.tables, NEW_STEP)  # whole and valid
        arrays = self.run.tables / f"{NEW_STEP:06d}" / f"{COLUMN}.safetensors"
        return hashlib.sha256(arrays.read_bytes()).hexdigest()

    def old_table_is_in_force(self) -> bool:
        """Whether readers get the old table, undamaged."""
        if store.latest_version(self.run.tables) != OLD_STEP:
            return False
        return bool(store.load(self.run.tables, OLD_STEP))


def make_site(folder: Path, *, scale: float = 1.0) -> Site:
    """Write data, configuration, the old snapshot and its table.

    The table is made in this process, as the service would make it. `write_request` asks for the
    new one.

    Args:
        folder: where; empty.
        scale: factor on the sizes of the classes. Below 0.92 none is partitioned over workers.
    """
    manifest = _write_digits(folder / "shards", scale)
    site = Site(_config(folder, str(manifest.folder), "base"))
    claim_folder(site.run, site.config, fresh=True)
    site.config_file.write_text(to_yaml(site.config), encoding="utf-8")
    write_request(site, manifest, OLD_STEP)
    executor = LocalExecutor(site.config.cluster)
    snapshot = read_snapshot(site.run.snapshots / step_name(OLD_STEP))
    Refresher(site.config, manifest, executor).serve(snapshot)
    return site


def write_request(site: Site, manifest: Manifest, step: int) -> None:
    """Write a snapshot as the trainer would."""
    description = NetworkDescription.of(site.config, {COLUMN: manifest.num_classes(COLUMN)})
    torch.manual_seed(step)
    write_snapshot(
        site.run,
        step,
        state=description.build().state_dict(),
        network=description,
        data_checksum=manifest.checksum,
    )


def _config(folder: Path, shards: str, name: str) -> RunConfig:
    return build_config(
        {
            "run": {"folder": str(folder / name)},
            "data": {"shards": shards},
            "model": {"input_size": 8, "embedding_dim": 32},
            "cluster": {
                "target_size": 40,
                "iterations": 30,
                "tolerance": 0.0,
                "memory_mib_per_worker": 1,
            },
            "launch": {"ray_cpus": 2},
        }
    )


def _write_digits(folder: Path, scale: float) -> Manifest:
    """Digits with noise, most of them of one class, in the order of their classes."""
    folder.mkdir(parents=True)
    digits = load_digits()
    counts = [max(1, round(scale * size)) for size in (_LARGE_CLASS, *[_SMALL_CLASS] * 9)]
    labels = np.repeat(np.arange(10), counts)
    samples = [_sample(digits, number, label) for number, label in enumerate(labels.tolist())]
    shards = tuple(
        write_shard(
            folder,
            f"train-{start // _IMAGES_PER_SHARD:06d}",
            samples[start : start + _IMAGES_PER_SHARD],
            [COLUMN],
        )
        for start in range(0, len(samples), _IMAGES_PER_SHARD)
    )
    return Manifest(
        folder=folder,
        source="digits",
        fingerprint="repeated digits",
        settings={},
        label_columns=(COLUMN,),
        label_names={COLUMN: tuple(map(str, range(10)))},
        splits={"train": SplitInfo(len(labels), {COLUMN: tuple(counts)}, shards)},
    ).write()


def _sample(digits: Any, number: int, label: int) -> Sample:
    rng = np.random.default_rng(number)
    image = rng.choice(digits.images[digits.target == label]) * 12 + rng.integers(0, 60, (8, 8))
    png = encode_png(np.clip(image, 0, 255).astype(np.uint8))
    return Sample(number, png, "png", {COLUMN: label}, f"digits/{number}")


@contextmanager
def two_nodes(*, head_cpus: int = 1, **ray_settings: int) -> Iterator[TwoNodes]:
    """A Ray of two nodes on this machine, of which the second, of one CPU, may be lost."""
    from ray.cluster_utils import Cluster

    folder = private_folder()
    head = {
        "num_cpus": head_cpus,
        "include_dashboard": False,
        "object_store_memory": _STORE_BYTES,
        "temp_dir": str(folder / "ray"),
        "_system_config": ray_settings,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = TwoNodes(cluster)
        nodes.mend()
        yield nodes
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


class TwoNodes:
    """A Ray of two nodes."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._second: Any = None
        self.address = str(cluster.address)

    def mend(self) -> None:
        """Start a second node if there is none."""
        if self._second is None:
            self._second = self._cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)

    def kill_second(self) -> None:
        """Kill the second node's processes, as a machine that fails would."""
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = None


def ray_workers() -> list[tuple[psutil.Process, str]]:
    """Ray's worker processes below this one, and what each is doing ("IDLE", "embed_one_shard")."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline()).strip()
        except psutil.Error:
            continue
        if title.startswith("ray::") and not title.endswith("Agent"):  # those are Ray's own
            found.append((process, title.removeprefix("ray::")))
    return found
