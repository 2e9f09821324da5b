"""torch, loaded at its first use: naming a loss in a configuration must not take its two seconds.

A loss is one file, its settings beside its mathematics. Configurations read the settings, in
processes that never compute anything; so these files take torch from here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.nn import functional
else:

    class _LazyModule:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            value = getattr(importlib.import_module(self._name), attribute)
            setattr(self, attribute, value)  # found directly from now on
            return value

    torch = _LazyModule("torch")
    functional = _LazyModule("torch.nn.functional")

__all__ = ["functional", "torch"]
