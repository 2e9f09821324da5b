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
from data_shards.errors import ConfigError, DataError
from data_shards.replacing import finish_replacements, read_whole
from trainer.config.run_config import RunConfig
from trainer.errors import TrainingError
from trainer.losses.registry import LOSSES
from trainer.models import build_network
from trainer.models.heads import ClassifierInput
from trainer.models.network import Network
from trainer.run.folder import SNAPSHOT_MANIFEST, SNAPSHOT_WEIGHTS, RunFolder, step_name, step_of
from trainer.run.start import check_weights

_BACKBONE_PREFIXES = ("", "backbone.", "backbone.model.")  # a whole network; our backbones; timm's


@dataclass(frozen=True, kw_only=True)
class NetworkDescription:
    """All that is needed to build the network again."""

    backbone: str
    channels: int
    input_size: int
    embedding_dim: int
    classifier_input: ClassifierInput | None
    """What the classifier of each task sees; None if the loss uses none."""
    num_classes: dict[str, int]
    """Classes of each task, in the order of the heads."""
    vectors_per_class: int = 1
    """Vectors of each class, for a cosine classifier."""
    retrained_input: ClassifierInput | None = None
    """What the second classifier of each task sees; None without a classifier stage."""

    @classmethod
    def of(cls, config: RunConfig, num_classes: Mapping[str, int]) -> NetworkDescription:
        """Describe the network that a configuration asks for."""
        model, loss = config.model, config.loss
        classifier_input: ClassifierInput | None = None
        if loss.has_classifier:
            cosine = LOSSES[loss.name].head == "cosine"
            classifier_input = "cosine" if cosine else model.classifier_input
        return cls(
            backbone=model.backbone,
            channels=model.channels,
            input_size=model.input_size,
            embedding_dim=model.embedding_dim,
            classifier_input=classifier_input,
            num_classes=dict(num_classes),
            vectors_per_class=loss.vectors_per_class,
            retrained_input=model.classifier_input if config.train.classifier_share else None,
        )

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


def snapshot_steps(run: RunFolder) -> list[int]:
    """Steps of the complete snapshots, ascending."""
    if not run.snapshots.is_dir():
        return []
    finish_replacements(run.snapshots)
    folders = run.snapshots.iterdir()
    steps = {step_of(f.name) for f in folders if (f / SNAPSHOT_MANIFEST).exists()}
    return sorted(step for step in steps if step is not None)


def load_initial_weights(network: Network, path: Path) -> list[str]:
    """Load the weights of another run, or of a backbone, into an untrained network.

    Args:
        network: tensors with the same name and shape are overwritten.
        path: a snapshot's folder, or a .safetensors file, which may name its tensors as a backbone
            does.

    Returns:
        Names of the tensors that keep their initial values: missing in the file, or of another
        shape there.

    Raises:
        ConfigError: from `check_weights`, or a tensor of the backbone is missing.
        TrainingError: the snapshot is damaged.
    """
    check_weights(path)
    if path.is_dir():
        path = read_snapshot(path).path / SNAPSHOT_WEIGHTS
    given = load_file(str(path))
    mine = network.state_dict()
    prefix = max(_BACKBONE_PREFIXES, key=lambda p: sum(p + name in mine for name in given))
    named = {prefix + name: tensor for name, tensor in given.items()}
    fitting = {n: t for n, t in named.items() if n in mine and t.shape == mine[n].shape}
    others = [name for name in mine if name not in fitting]
    lacking = [
        name
        for name in others
        # Other libraries' BatchNorm may not count its batches.
        if name.startswith("backbone.") and not name.endswith(".num_batches_tracked")
    ]
    if lacking:
        raise ConfigError(
            f"model.weights {path} has no tensor of the right shape for {lacking[0]} and "
            f"{len(lacking) - 1} more of the backbone: it was made with another model.backbone, "
            "model.channels or model.input_size; set them to those"
        )
    network.load_state_dict(fitting, strict=False)
    return others


def load_network(snapshot: Snapshot) -> Network:
    """The snapshot's network on the CPU, in evaluation mode, in float32."""
    network = snapshot.network.build()
    state = load_file(str(snapshot.path / SNAPSHOT_WEIGHTS))
    network.load_state_dict(state)
    return network.float().eval()
