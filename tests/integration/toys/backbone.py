"""A toy backbone: one linear layer. Legend: B images, C channels, H height, W width."""

from __future__ import annotations

from torch import Tensor, nn

from trainer.models.backbone import Backbone


class ToyBackbone(Backbone):
    """Pixels -> 16 features."""

    num_features = 16

    def __init__(self, *, channels: int, input_size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels * input_size**2, self.num_features)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 16)."""
        features: Tensor = self.layer(images.flatten(start_dim=1))
        return features
