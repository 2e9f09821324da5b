"""Any backbone of the timm library, with fresh weights (nothing is downloaded)."""

from __future__ import annotations

import difflib

import torch
from torch import Tensor

from data_shards.errors import ConfigError
from trainer.models.backbone import Backbone


class TimmBackbone(Backbone):
    """A timm model without its classifier."""

    def __init__(self, name: str, *, channels: int, input_size: int) -> None:
        """Build it with weights drawn from torch's global generator.

        Args:
            name: one of `timm.list_models()`.
            channels: of the images.
            input_size: side of the images, in pixels.

        Raises:
            ConfigError: timm is not installed, has no such model, or the model does not take
                images of this size.
        """
        super().__init__()
        try:
            import timm
        except (ImportError, RuntimeError) as error:
            # A torchvision built for another torch raises RuntimeError.
            raise ConfigError(
                f"model.backbone timm:{name} needs timm, which cannot be imported ({error}); "
                "install it with: pip install -e '.[timm]', and a torchvision built for your torch"
            ) from error
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=1)
            hint = f"did you mean timm:{near[0]}?" if near else "timm.list_models() has all names"
            raise ConfigError(f"timm {timm.__version__} has no model {name!r}; {hint}")
        self.model = timm.create_model(name, pretrained=False, in_chans=channels, num_classes=0)
        self.num_features = self._measure(name, channels, input_size)

    def _measure(self, name: str, channels: int, input_size: int) -> int:
        """Length of the features; timm's own attribute is not right for every model."""
        self.model.eval()
        try:
            with torch.no_grad():
                features = self.model(torch.zeros(1, channels, input_size, input_size))
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"model.backbone timm:{name} does not take {channels} x {input_size} x "
                f"{input_size} images: {error}; set model.input_size to a size that it supports"
            ) from error
        self.model.train()
        return int(features.shape[1])

    def forward(self, images: Tensor) -> Tensor:
        """Features of images: (B, C, H, W) -> (B, num_features)."""
        features: Tensor = self.model(images)
        return features
