"""Networks: a backbone by name, with embedding heads."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from data_shards.errors import ConfigError
from trainer.models.backbone import Backbone
from trainer.models.iresnet import BLOCKS_PER_STAGE, IResNet
from trainer.models.network import ClassifierInput, Network
from trainer.models.tiny import Tiny

_IRESNET_DEPTHS = {f"iresnet{depth}": depth for depth in BLOCKS_PER_STAGE}
_TIMM_PREFIX = "timm:"


def build_network(  # noqa: PLR0913 - what `NetworkDescription` says
    backbone: str,
    *,
    channels: int,
    input_size: int,
    embedding_dim: int,
    num_classes: Mapping[str, int],
    classifier_input: ClassifierInput | None = "features",
    vectors_per_class: int = 1,
    retrained_input: ClassifierInput | None = None,
) -> Network:
    """Build a network with fresh weights, drawn from torch's global generator.

    Args:
        backbone: "tiny", "iresnet18", "iresnet34", "iresnet50", "iresnet100", or "timm:NAME".
        channels: of the images: 1 = grey, 3 = RGB.
        input_size: side of the images, in pixels.
        embedding_dim: D.
        num_classes: task -> number of its classes.
        classifier_input: what the classifiers see (see `Network`); None = no classifiers.
        vectors_per_class: of a "cosine" classifier.
        retrained_input: what the second classifiers see; None = no second ones.

    Raises:
        ConfigError: an unknown backbone (the nearest is named), one that does not take such
            images, or a timm backbone without timm.
    """
    return Network(
        _build_backbone(backbone, channels=channels, input_size=input_size),
        channels=channels,
        input_size=input_size,
        embedding_dim=embedding_dim,
        num_classes=num_classes,
        classifier_input=classifier_input,
        vectors_per_class=vectors_per_class,
        retrained_input=retrained_input,
    )


def _build_backbone(name: str, *, channels: int, input_size: int) -> Backbone:
    if name == "tiny":
        return Tiny(channels, input_size)
    if name in _IRESNET_DEPTHS:
        return IResNet(_IRESNET_DEPTHS[name], channels=channels, input_size=input_size)
    if name.startswith(_TIMM_PREFIX):
        from trainer.models.timm_backbone import TimmBackbone

        return TimmBackbone(
            name.removeprefix(_TIMM_PREFIX), channels=channels, input_size=input_size
        )
    known = ["tiny", *_IRESNET_DEPTHS, f"{_TIMM_PREFIX}NAME"]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    raise ConfigError(f"unknown model.backbone {name!r}: {hint}")
