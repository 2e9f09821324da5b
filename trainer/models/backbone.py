"""The interface of a backbone."""

from __future__ import annotations

from torch import nn


class Backbone(nn.Module):
    """Images (B, C, H, W) -> features (B, num_features)."""

    num_features: int
    """Length of a feature vector."""
