"""Networks: a backbone by name, with an embedding head for each task."""

from trainer.models.backbones import BACKBONES
from trainer.models.network import Network, build_network

__all__ = ["BACKBONES", "Network", "build_network"]
