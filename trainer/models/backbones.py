"""Which backbones there are. A new one is a file beside this one, and a line in `BACKBONES`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from data_shards.errors import ConfigError
from trainer.models.backbone import Backbone
from trainer.models.iresnet import BLOCKS_PER_STAGE, IResNet
from trainer.models.timm_backbone import TimmBackbone
from trainer.models.tiny import Tiny


class BackboneBuilder(Protocol):
    """Builds a backbone with fresh weights, drawn from torch's global generator."""

    def __call__(self, *, channels: int, input_size: int) -> Backbone:
        """Build it for square images of that many channels and pixels a side.

        Raises:
            ConfigError: it does not take such images.
        """


BACKBONES: Mapping[str, BackboneBuilder] = {
    "tiny": Tiny,
    **{f"iresnet{depth}": partial(IResNet, depth) for depth in BLOCKS_PER_STAGE},
}
"""`model.backbone` -> its builder."""

LIBRARIES: Mapping[str, Callable[[str], BackboneBuilder]] = {
    "timm": lambda name: partial(TimmBackbone, name),
}
"""Other libraries' backbones: in `model.backbone` LIBRARY:NAME, the library -> name -> builder."""


def build_backbone(name: str, *, channels: int, input_size: int) -> Backbone:
    """Build the backbone that `model.backbone` names.

    Raises:
        ConfigError: an unknown name (the nearest is suggested), or of the builder.
    """
    library, _, model = name.partition(":")
    builder = LIBRARIES[library](model) if library in LIBRARIES and model else BACKBONES.get(name)
    if builder is None:
        known = [*BACKBONES, *(f"{library}:NAME" for library in LIBRARIES)]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise ConfigError(f"unknown model.backbone {name!r}: {hint}")
    return builder(channels=channels, input_size=input_size)
