"""DeepSpeed; no other file of the trainer uses it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import deepspeed
import deepspeed.comm.comm
import deepspeed.ops
import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from torch import nn

from data_shards.errors import ConfigError
from trainer.config.run_config import RunConfig
from trainer.errors import LostRanks
from trainer.losses.outputs import TaskOutput
from trainer.models.network import Network
from trainer.run.deepspeed_version import check_deepspeed
from trainer.runtime.threads import limit_threads
from trainer.runtime.world import (
    World,
    first_line,
    is_lost_connection,
    micro_batches_per_rank,
)

_COLLECTIVE_PER_SILENCE = 1.25
"""A rank that is silent ends the others by their watch, which can name it; one that is alive but
does not come to a collective, by that collective's time-out: a little later."""


def start_distributed(config: RunConfig) -> World:
    """Start the process group of ranks that `settle_rank` has settled.

    Raises:
        ConfigError: this host has a DeepSpeed that computes wrong gradients.
        LostRanks: not all ranks came.
    """
    check_deepspeed(deepspeed.__version__)
    world = World.from_environment()
    limit_threads()
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    else:
        # DeepSpeed would compile a shared-memory op for CPU inference (30 s), which training does
        # not use.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _start_groups(config.train.communication_timeout_seconds, world)
    return world


def _start_groups(limit_seconds: float, world: World) -> None:
    timeout = timedelta(seconds=_COLLECTIVE_PER_SILENCE * limit_seconds)
    try:
        deepspeed.init_distributed(
            dist_backend="nccl" if world.device.type == "cuda" else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
            timeout=timeout,
        )
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        raise LostRanks(
            f"rank {world.rank} did not meet the other {world.size - 1} within "
            f"{timeout.total_seconds():g} s ({first_line(error)}); start all of them within that "
            "time (train.communication_timeout_seconds), and see that every host reaches "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        ) from error
    # The groups that DeepSpeed makes for its own collectives would have torch's: half an hour.
    deepspeed.comm.comm.cdb.new_group = partial(torch.distributed.new_group, timeout=timeout)


def deepspeed_config(config: RunConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's own JSON, made from our configuration.

    A rank accumulates gradients over its micro-batches of a step.

    Raises:
        ConfigError: the micro-batches do not divide among the ranks.
    """
    sampler, train = config.sampler, config.train
    generated: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": sampler.micro_batch_size,
        "gradient_accumulation_steps": micro_batches_per_rank(sampler.micro_batches, world_size),
        "gradient_clipping": train.gradient_clipping,
        "zero_optimization": {"stage": train.zero_stage},
        # Torch's own SGD and AdamW, which ZeRO can handle but does not list as tested.
        "zero_allow_untested_optimizer": True,
        # Weights, BatchNorm and optimiser stay in fp32; matrix products are in bf16.
        "torch_autocast": {"enabled": train.precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": 10**9,
    }
    zero = generated["zero_optimization"] | train.deepspeed_extra.get("zero_optimization", {})
    return generated | train.deepspeed_extra | {"zero_optimization": zero}


def make_optimizer(network: Network, config: RunConfig) -> torch.optim.Optimizer:
    """Torch's SGD or AdamW; vectors (biases, norms, PReLU) get no weight decay.

    Second classifiers are in groups of their own ("retrained"): they are trained in another stage.
    """
    optim = config.optim
    second = {id(p) for p in network.retrained_parameters()}
    groups = []
    for retrained in (False, True) if second else (False,):
        chosen = [p for p in network.parameters() if (id(p) in second) == retrained]
        groups += [
            {
                "params": [p for p in chosen if (p.ndim > 1) == is_matrix],
                "weight_decay": optim.weight_decay if is_matrix else 0.0,
                "retrained": retrained,
            }
            for is_matrix in (True, False)
        ]
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=optim.learning_rate)
    nesterov = optim.momentum > 0
    return torch.optim.SGD(
        groups, lr=optim.learning_rate, momentum=optim.momentum, nesterov=nesterov
    )


def is_finite(network: nn.Module) -> bool:
    """Whether every weight and statistic that this rank holds is a finite number."""
    # Under ZeRO 3 the weight itself is empty; this rank's partition is an attribute of it.
    held = [getattr(p, "ds_tensor", p).detach() for p in network.parameters()]
    # Minimum and maximum are NaN if any value is, and need no memory.
    extremes = [torch.stack(t.aminmax()) for t in (*held, *network.buffers()) if t.numel()]
    return all(bool(pair.isfinite().all()) for pair in extremes)


class Engine:
    """A network under training by DeepSpeed.

    Gradients are averaged over micro-batches and ranks, so a loss that is the mean over its
    micro-batch gives the gradient of the mean over the global batch.
    """

    def __init__(self, network: Network, config: RunConfig, world: World) -> None:
        self.world = world
        settings = deepspeed_config(config, world.size)
        self.num_micro_batches = int(settings["gradient_accumulation_steps"])
        self._partitioned = config.train.zero_stage == 3
        network.to(world.device)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=network,
            optimizer=make_optimizer(network, config),
            config=settings,
            dist_init_required=False,
        )
        self.network = network
        self._unwritten: list[Callable[[], None]] = []
        writer = self._engine.checkpoint_engine
        write = writer.save
        if isinstance(writer, TorchCheckpointEngine):
            write = partial(_write_opened, write)
        writer.save = lambda state_dict, path: self._unwritten.append(
            partial(write, state_dict, path)
        )

    def forward(self, images: torch.Tensor) -> dict[str, TaskOutput]:
        """One micro-batch through the network, in training mode.

        Args:
            images: (B, C, H, W) float32 on the world's device.
        """
        outputs: dict[str, TaskOutput] = self._engine(images)
        return outputs

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of one micro-batch; the last one of a step averages over ranks."""
        self._engine.backward(loss)

    def micro_step(self) -> None:
        """Call it after each `backward`; after the last one of a step it updates the weights."""
        self._engine.step()

    def set_learning_rate(self, learning_rate: float, *, retrained: bool = False) -> None:
        """Use this learning rate from now on, for all but the second classifiers.

        Args:
            learning_rate: for this step.
            retrained: train the second classifiers instead; nothing else changes.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate if group["retrained"] == retrained else 0.0

    def full_state(self) -> dict[str, torch.Tensor]:
        """The whole network's state, gathered under ZeRO 3. Every rank must call it."""
        if not self._partitioned:
            return dict(self.network.state_dict())
        with deepspeed.zero.GatheredParameters(list(self.network.parameters())):
            return {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}

    def is_finite(self) -> bool:
        """Whether this rank's weights and statistics are finite."""
        return is_finite(self.network)

    def evaluate(self) -> Any:
        """A context with `network` whole and in evaluation mode. Every rank must enter it."""
        return _Evaluating(self.network, partitioned=self._partitioned)

    def save(self, folder: Path, tag: str) -> None:
        """Write weights and optimiser state under folder/tag. Every rank must call it."""
        self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
        # Written only now: inside save_checkpoint the ranks wait in barriers, which a slow disk
        # would make time out.
        self.world.run_on_all_ranks(self._write)

    def _write(self) -> None:
        while self._unwritten:
            self._unwritten.pop(0)()

    def load(self, folder: Path, tag: str) -> None:
        """Restore weights and optimiser state as `save` wrote them. Every rank must call it.

        Settings such as weight decay and clipping stay those of this run.
        """
        groups = self._optimizer.param_groups
        settings = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        loaded, _ = self._engine.load_checkpoint(str(folder), tag=tag)
        if loaded is None:
            raise ConfigError(
                f"DeepSpeed could not load the checkpoint {folder / tag}; --resume another"
            )
        for group, mine in zip(self._optimizer.param_groups, settings, strict=True):
            group.update(mine)
        if hasattr(self._optimizer, "clip_grad"):  # ZeRO 1 and 2 restore the checkpoint's
            self._optimizer.clip_grad = self._engine.gradient_clipping()


def _write_opened(write: Callable[[Any, Any], None], state: Any, path: str) -> None:
    """Open the file ourselves: given its name, torch does not say why it cannot write it."""
    with open(path, "wb") as file:
        try:
            write(state, file)
        except RuntimeError as error:  # that the file was cut off
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


class _Evaluating:
    def __init__(self, network: nn.Module, *, partitioned: bool) -> None:
        self._network = network
        self._gathered = deepspeed.zero.GatheredParameters(
            list(network.parameters()), enabled=partitioned
        )

    def __enter__(self) -> None:
        self._gathered.__enter__()
        self._network.eval()

    def __exit__(self, *error: object) -> None:
        self._network.train()
        self._gathered.__exit__(*error)
