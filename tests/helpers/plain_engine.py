"""The twin of the trainer's engine: plain PyTorch in one process."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config.run_config import RunConfig
from trainer.losses.outputs import TaskOutput
from trainer.models.network import Network
from trainer.runtime.engine import make_optimizer
from trainer.runtime.world import World


class PlainEngine:
    """`Engine` without DeepSpeed: one process adds up the gradients of all micro-batches."""

    def __init__(self, network: Network, config: RunConfig, world: World) -> None:
        self.network, self.world = network, world
        self.num_micro_batches = config.sampler.micro_batches
        self._optimizer = make_optimizer(network, config)
        self._clipping = config.train.gradient_clipping
        self._autocast = torch.autocast(
            "cpu", dtype=torch.bfloat16, enabled=config.train.precision == "bf16"
        )
        self._done = 0

    def forward(self, images: Tensor) -> dict[str, TaskOutput]:
        with self._autocast:
            return self.network(images)

    def backward(self, loss: Tensor) -> None:
        (loss / self.num_micro_batches).backward()

    def micro_step(self) -> None:
        self._done += 1
        if self._done % self.num_micro_batches:
            return
        if self._clipping:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._clipping)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def set_learning_rate(self, learning_rate: float, *, retrained: bool = False) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate if group["retrained"] == retrained else 0.0

    def full_state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
