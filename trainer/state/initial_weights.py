"""The weights that a run starts from: another run's, or those of a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from data_shards.errors import ConfigError
from trainer.models.network import Network
from trainer.run.folder import SNAPSHOT_WEIGHTS
from trainer.run.start import check_weights
from trainer.state.snapshot import read_snapshot

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor -> its shape."""

_BACKBONE = "backbone."
_PREFIXES = ("", _BACKBONE, f"{_BACKBONE}model.")  # a whole network; our backbones; timm's


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
    names = _fitting(path, _shapes(network))
    if path.is_dir():
        read_snapshot(path)
    given = load_file(str(_file(path)))
    network.load_state_dict({mine: given[theirs] for mine, theirs in names.items()}, strict=False)
    return [name for name in network.state_dict() if name not in names]


def check_initial_weights(backbone: nn.Module, path: Path) -> None:
    """Check that all of a network's backbone is in a file; reads only the file's header.

    Raises:
        ConfigError: as for `load_initial_weights`.
    """
    _fitting(path, {_BACKBONE + name: shape for name, shape in _shapes(backbone).items()})


def _file(path: Path) -> Path:
    return path / SNAPSHOT_WEIGHTS if path.is_dir() else path


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _fitting(path: Path, mine: Shapes) -> dict[str, str]:
    """Name of each tensor of ours that the file has with the same shape -> its name there."""
    check_weights(path)
    with safe_open(str(_file(path)), framework="pt") as file:
        given = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
    prefix = max(_PREFIXES, key=lambda p: sum(p + name in mine for name in given))
    names = {prefix + name: name for name, s in given.items() if mine.get(prefix + name) == s}
    lacking = [
        name
        for name in mine
        # Other libraries' BatchNorm may not count its batches.
        if name not in names
        and name.startswith(_BACKBONE)
        and not name.endswith(".num_batches_tracked")
    ]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ConfigError(
            f"model.weights {path} has no tensor of the right shape for {lacking[0]}{more} of the "
            "backbone: it was made with another model.backbone, model.channels or "
            "model.input_size; set them back, or start without model.weights"
        )
    return names
