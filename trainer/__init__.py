"""Network, CLMLE loss, cluster sampler, DeepSpeed loop, evaluation."""

from __future__ import annotations

from data_shards.public_names import imported_when_used

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

__getattr__, __dir__ = imported_when_used(__name__, _MODULES)
