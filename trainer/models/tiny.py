"""A small backbone for CPUs and small images.

Legend: B images, C channels, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.models.backbone import Backbone

_LARGEST_MAP = 4


class Tiny(Backbone):
    """Three convolutions with BatchNorm; the last map keeps up to 4 x 4 positions.

    Global pooling would lose where on a face or a garment something is, and with it much of the
    information of a small image.
    """

    def __init__(self, channels: int, input_size: int, *, width: int = 32) -> None:
        """Build it with weights drawn from torch's global generator.

        Args:
            channels: of the images: 1 or 3.
            input_size: side of the images, in pixels, >= 8. Meant for up to 64.
            width: filters of the first convolution; the others have 2 and 4 times as many.
        """
        super().__init__()
        side = min(_LARGEST_MAP, input_size // 4)
        self.layers = nn.Sequential(
            *_stage(channels, width, nn.MaxPool2d(2)),
            *_stage(width, 2 * width, nn.MaxPool2d(2)),
            *_stage(2 * width, 4 * width, nn.AdaptiveAvgPool2d(side)),
            nn.Flatten(),
        )
        self.num_features = 4 * width * side * side

    def forward(self, images: Tensor) -> Tensor:
        """Features of images: (B, C, H, W) -> (B, num_features)."""
        # CPUs convolve and pool few channels nearly twice as fast in this memory layout.
        features: Tensor = self.layers(images.contiguous(memory_format=torch.channels_last))
        return features


class _Convolution(nn.Conv2d):
    """A convolution that keeps the memory layout, also of grey images.

    With one channel both layouts are the same in memory, and `nn.Conv2d` would choose the slow one.
    A second channel of zeros decides it, and changes no result.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        weight: Tensor = self.weight
        if self.in_channels == 1:
            maps = _with_zero_channel(maps).contiguous(memory_format=torch.channels_last)
            weight = _with_zero_channel(weight)
        return functional.conv2d(maps, weight, padding=1)


def _with_zero_channel(tensor: Tensor) -> Tensor:
    """(N, 1, H, W) -> (N, 2, H, W)."""
    return functional.pad(tensor, (0, 0, 0, 0, 0, 1))


def _stage(inputs: int, outputs: int, pool: nn.Module) -> tuple[nn.Module, ...]:
    # Pooling first leaves the later layers a quarter of the work.
    return (
        _Convolution(inputs, outputs),
        pool,
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
