"""Snapshots: weights for embedding, written by the trainer, read by all other parts. No pickle.

A complete `RUN/snapshots/step_000200/` is also the request for cluster table 200.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from data_shards.atomic import atomic_folder, read_json, sha256_of, write_json
from data_shards.errors import DataError
from data_shards.replacing import read_whole
from trainer.errors import TrainingError
from trainer.models import build_network
from trainer.models.network import Network
from trainer.run.folder import SNAPSHOT_MANIFEST, SNAPSHOT_WEIGHTS, RunFolder, step_name
from trainer.run.network import NetworkSettings


class NetworkDescription(NetworkSettings):
    """A network's settings, which can build it."""

    def build(self) -> Network:
        """A network with fresh weights, drawn from torch's global generator."""
        return build_network(**asdict(self))


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A complete snapshot on disk."""

    path: Path
    step: int
    checksum: str
    """SHA-256 of the weights file: the identity of these weights."""
    data_checksum: str
    """Checksum of the shards' manifest that the run trains on."""
    network: NetworkDescription


def write_snapshot(
    run: RunFolder,
    step: int,
    *,
    state: Mapping[str, torch.Tensor],
    network: NetworkDescription,
    data_checksum: str,
) -> Snapshot:
    """Write the weights of a step; replaces an older attempt at the same step.

    Args:
        run: the run's folder.
        step: optimiser steps that made these weights.
        state: the network's full state, on one rank.
        network: how to build the network.
        data_checksum: `Manifest.checksum` of the training data.
    """
    path = run.snapshots / step_name(step)
    run.snapshots.mkdir(parents=True, exist_ok=True)
    with atomic_folder(path, "the snapshot") as folder:
        weights = folder / SNAPSHOT_WEIGHTS
        # Cloned, so that tensors which share storage are written as separate tensors.
        plain = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        # Not save_file, whose files only their owner can read.
        weights.write_bytes(save(plain))
        checksum = sha256_of(weights)
        write_json(
            folder / SNAPSHOT_MANIFEST,
            {
                "step": step,
                "checksum": checksum,
                "data_checksum": data_checksum,
                "network": asdict(network),
            },
        )
    return Snapshot(
        path=path, step=step, checksum=checksum, data_checksum=data_checksum, network=network
    )


def describe_snapshot(path: Path) -> Snapshot:
    """Open a snapshot by its manifest alone; the weights, which take long to read, are not checked.

    Raises:
        TrainingError: it has no manifest, or none of a snapshot.
    """
    try:
        stored = read_whole(path, lambda: read_json(path / SNAPSHOT_MANIFEST))
        return Snapshot(
            path=path,
            step=stored["step"],
            checksum=stored["checksum"],
            data_checksum=stored["data_checksum"],
            network=NetworkDescription(**stored["network"]),
        )
    except (DataError, KeyError, TypeError) as error:
        raise _incomplete(path, error) from error


def _incomplete(path: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"{path} is not a complete snapshot of a run ({error}); name a folder such as "
        "RUN/snapshots/step_000200"
    )


def read_snapshot(path: str | Path) -> Snapshot:
    """Open a snapshot and check its weights against their checksum.

    Raises:
        TrainingError: not a complete snapshot, or its weights are damaged.
    """
    path = Path(path)
    return read_whole(path, lambda: _checked(path))


def _checked(path: Path) -> Snapshot:
    snapshot = describe_snapshot(path)
    try:
        actual = sha256_of(path / SNAPSHOT_WEIGHTS)
    except OSError as error:
        raise _incomplete(path, error) from error
    if actual != snapshot.checksum:
        raise TrainingError(
            f"{path / SNAPSHOT_WEIGHTS} is damaged: its checksum differs from "
            f"{SNAPSHOT_MANIFEST}; remove the folder and continue from a checkpoint"
        )
    return snapshot


def copy_snapshot(source: RunFolder, run: RunFolder, step: int) -> None:
    """Copy a snapshot to another run's folder, where it requests tables again.

    Raises:
        TrainingError: it no longer exists.
    """
    original = read_snapshot(source.snapshots / step_name(step))
    run.snapshots.mkdir(parents=True, exist_ok=True)
    with atomic_folder(run.snapshots / step_name(step), "the snapshot") as folder:
        # With new file times: the request written last is served, and this request is made now.
        for file in original.path.iterdir():
            shutil.copyfile(file, folder / file.name)


def load_network(snapshot: Snapshot) -> Network:
    """The snapshot's network on the CPU, in evaluation mode, in float32."""
    network = snapshot.network.build()
    state = load_file(str(snapshot.path / SNAPSHOT_WEIGHTS))
    network.load_state_dict(state)
    return network.float().eval()
