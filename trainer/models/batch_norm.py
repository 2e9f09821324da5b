"""Running statistics of BatchNorm that do not depend on the number of ranks.

BatchNorm updates its statistics at each forward pass, so the result would depend on which
micro-batches a rank saw, and in which order. Here all micro-batches of a step start from the same
statistics, and the step ends with the average of their updates.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class RunningStatistics:
    """Averages a network's running means and variances over the micro-batches of a step.

    Use: `begin_step()`; then `collect()` after each forward and backward pass in training mode (the
    backward pass reads the statistics); then `finish()`.
    """

    def __init__(self, network: nn.Module) -> None:
        """Find the BatchNorm layers, whose buffers are changed in place."""
        layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        named = [(name, b) for layer in layers for name, b in layer.named_buffers(recurse=False)]
        self._statistics = [b for name, b in named if name != "num_batches_tracked"]
        self._counters = [b for name, b in named if name == "num_batches_tracked"]
        self._start = torch.empty(0)
        self._sum = torch.empty(0)
        self._start_counts: list[Tensor] = []
        self._num_collected = 0

    def begin_step(self) -> None:
        """Store the statistics from which every micro-batch of the step starts."""
        self._start = self._flat()
        # In float64 the order of summation changes no result beyond what float32 rounds away.
        self._sum = torch.zeros_like(self._start, dtype=torch.float64)
        self._start_counts = [counter.clone() for counter in self._counters]
        self._num_collected = 0

    def collect(self) -> None:
        """Add the statistics after the last forward pass to the sum, and reset them."""
        self._sum += self._flat()
        self._num_collected += 1
        self._restore(self._start)

    def finish(self, world_average: Callable[[Tensor], Tensor]) -> None:
        """Set the statistics to the average over all micro-batches of all ranks.

        A step counts as one batch in `num_batches_tracked`. Every rank must have collected as many
        micro-batches.

        Args:
            world_average: the mean of a (n,) float64 tensor over the ranks, on each rank.
        """
        if self._statistics:
            self._restore(world_average(self._sum / self._num_collected))
        for counter in self._counters:
            counter += 1

    def _flat(self) -> Tensor:
        return torch.cat([b.flatten() for b in self._statistics] or [torch.empty(0)])

    def _restore(self, flat: Tensor) -> None:
        parts = torch.split(flat, [b.numel() for b in self._statistics])
        for buffer, part in zip(self._statistics, parts, strict=True):
            # Through `data`: autograd saves the buffers for a backward pass that does not use them
            # in training mode, and would refuse it after an ordinary in-place change.
            buffer.data.copy_(part.view_as(buffer))
        for counter, count in zip(self._counters, self._start_counts, strict=True):
            counter.copy_(count)
