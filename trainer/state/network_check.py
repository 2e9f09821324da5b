"""Whether networks can be built here, and their first weights fit, before anything starts.

A program of its own, because torch takes seconds to import: `clmle run` asks it, as
JSON on its standard input and output.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_shards.errors import ClmleError
from trainer.models.backbone import Backbone
from trainer.models.backbones import build_backbone
from trainer.run.network import NetworkSettings
from trainer.runtime.precision import emulation_warning
from trainer.runtime.world import World
from trainer.state.initial_weights import check_initial_weights


def num_parameters(network: NetworkSettings, backbone: Backbone) -> int:
    """Numbers that are trained; those of small layers of the heads are left out."""
    dim = network.embedding_dim
    classes = sum(network.num_classes.values()) * network.vectors_per_class
    heads = len(network.num_classes) * backbone.num_features * dim + classes * dim
    return heads + sum(parameter.numel() for parameter in backbone.parameters())


@lru_cache(maxsize=1)  # a run's baselines have its backbone
def _built(name: str, channels: int, input_size: int) -> Backbone:
    return build_backbone(name, channels=channels, input_size=input_size)


def check_network(network: NetworkSettings, weights: str) -> int:
    """Build a network's backbone, and compare it with the weights that a run starts from.

    Args:
        network: its settings.
        weights: `model.weights`; "" = none.

    Returns:
        `num_parameters`.

    Raises:
        ConfigError: there is no such backbone here, it does not take such images, or the weights
            do not fit.
    """
    backbone = _built(network.backbone, network.channels, network.input_size)
    if weights:
        check_initial_weights(backbone, Path(weights))
    return num_parameters(network, backbone)


def main() -> int:
    """Answer {"networks": [[settings, weights], ...], "precisions": [...]}.

    The answer is {"num_parameters": [...], "warnings": [...]}, or {"error": message}.
    """
    asked: dict[str, Any] = json.load(sys.stdin)
    device = World.from_environment().device
    slow = (emulation_warning(precision, device) for precision in asked["precisions"])
    try:
        answer: dict[str, Any] = {
            "num_parameters": [
                check_network(NetworkSettings(**network), weights)
                for network, weights in asked["networks"]
            ],
            "warnings": [warning for warning in slow if warning is not None],
        }
    except ClmleError as error:
        answer = {"error": str(error)}
    # On a line of its own: libraries may print, too.
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
