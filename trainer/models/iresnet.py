"""The residual network that face recognition uses ("improved ResNet", as in ArcFace).

Unlike the usual ResNet, the first convolution keeps the resolution, a block is
BN-conv-BN-PReLU-conv-BN with the stride in its second convolution, and there is no pooling at the
end. Deng et al., CVPR 2019; Duta et al., ICPR 2020.

Legend: B images, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from data_shards.errors import ConfigError
from trainer.models.backbone import Backbone

BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
_STAGE_WIDTHS = (64, 128, 256, 512)
_REDUCTION = 2 ** len(_STAGE_WIDTHS)  # each stage halves the map


class Block(nn.Module):
    """A residual block: BN-conv-BN-PReLU-conv-BN beside an identity or a strided projection."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        result: Tensor = self.residual(maps) + self.shortcut(maps)
        return result


class IResNet(Backbone):
    """Four stages of residual blocks, then BatchNorm and a flat vector."""

    def __init__(self, depth: int, *, channels: int, input_size: int) -> None:
        """Build it with weights drawn from torch's global generator.

        Args:
            depth: 18, 34, 50 or 100.
            channels: of the images.
            input_size: side of the images, in pixels: a multiple of 16 (faces: 112).

        Raises:
            ConfigError: unsupported depth or input size.
        """
        super().__init__()
        if depth not in BLOCKS_PER_STAGE:
            raise ConfigError(f"iresnet depth must be one of {list(BLOCKS_PER_STAGE)}, got {depth}")
        if input_size % _REDUCTION or input_size < _REDUCTION:
            lower = max(_REDUCTION, input_size // _REDUCTION * _REDUCTION)
            raise ConfigError(
                f"iresnet{depth} needs model.input_size to be a multiple of {_REDUCTION}, got "
                f"{input_size}; set it to {lower} or {lower + _REDUCTION}"
            )
        width = _STAGE_WIDTHS[0]
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
        ]
        for stage_width, num_blocks in zip(_STAGE_WIDTHS, BLOCKS_PER_STAGE[depth], strict=True):
            for number in range(num_blocks):
                layers.append(Block(width, stage_width, stride=2 if number == 0 else 1))
                width = stage_width
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(width), nn.Flatten())
        self.num_features = width * (input_size // _REDUCTION) ** 2
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    def forward(self, images: Tensor) -> Tensor:
        """Features of images: (B, C, H, W) -> (B, num_features)."""
        features: Tensor = self.layers(images)
        return features
