"""Network, CLMLE loss, cluster sampler, DeepSpeed loop, evaluation."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "BACKBONES": "trainer.models.backbones",
    "Classifier": "trainer.evaluation.classifier",
    "LOSSES": "trainer.losses.registry",
    "LossSettings": "trainer.losses.spec",
    "LossSpec": "trainer.losses.spec",
    "Network": "trainer.models.network",
    "READ_OUTS": "trainer.evaluation.registry",
    "RunConfig": "trainer.config.run_config",
    "RunFolder": "trainer.run.folder",
    "Term": "trainer.losses.spec",
    "TrainingError": "trainer.errors",
    "candidate_cosines": "trainer.losses.clmle",
    "clmle_loss": "trainer.losses.clmle",
    "embed_images": "trainer.models.embed",
    "load_config": "trainer.config.yaml_file",
    "load_network": "trainer.state.snapshot",
}
"""Public name -> the module that holds it, imported when the name is first used."""

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
