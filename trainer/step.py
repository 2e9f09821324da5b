"""One optimiser step: forward, loss, backward over this rank's micro-batches, then the update."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

import torch

from trainer.config.run_config import RunConfig
from trainer.errors import NonFiniteLoss
from trainer.losses.batch import ClusterComparison
from trainer.losses.collapse import Observed
from trainer.losses.objective import Objective
from trainer.losses.outputs import TaskOutput
from trainer.losses.schedule import learning_rate_factor
from trainer.models.batch_norm import RunningStatistics
from trainer.runtime.engine import Engine
from trainer.sampling.batch_loader import BatchLoader

_REMEDY = (
    "Lower optim.learning_rate, set train.gradient_clipping, or grow the margins more slowly "
    "(loss.margin_anneal), in a new run.folder; --resume PATH starts there from one of this run's "
    "checkpoints"
)


class StepRecord:
    """Sums over steps, kept on the device so that no step waits for them."""

    def __init__(self) -> None:
        self.parts: dict[str, torch.Tensor] = {}
        self.counts: Counter[str] = Counter()
        """Micro-batches that had each part; the same on every rank."""
        self.images = 0
        self.seconds = 0.0
        self.waiting_seconds = 0.0
        """Time that the steps waited for their images."""
        self.observed: Mapping[str, Observed] = {}
        """task -> outputs for this rank's first micro-batch of the last step: on rank 0 the same
        one for any number of ranks."""
        self.comparisons: Mapping[str, ClusterComparison] = {}
        """task -> the clusters that CLMLE compared them with."""

    def keep(
        self, outputs: Mapping[str, TaskOutput], comparisons: Mapping[str, ClusterComparison]
    ) -> None:
        """Keep what a micro-batch was mapped to."""
        self.observed = {
            task: Observed(output.embedding.detach(), output.projection)
            for task, output in outputs.items()
        }
        self.comparisons = comparisons

    def add(self, parts: Mapping[str, torch.Tensor]) -> None:
        """Add one micro-batch's loss parts."""
        self.counts.update(parts.keys())
        for name, value in parts.items():
            self.parts[name] = self.parts.get(name, torch.zeros_like(value)) + value


class TrainingStep:
    """Runs steps; every rank runs the same one at the same time."""

    def __init__(
        self, config: RunConfig, engine: Engine, objective: Objective, loader: BatchLoader
    ) -> None:
        self._config = config
        self._engine = engine
        self._objective = objective
        self._loader = loader
        self._statistics = RunningStatistics(engine.network)
        self.learning_rate = 0.0
        """Learning rate of the last step."""

    def run(self, step: int, record: StepRecord, *, stop: bool) -> bool:
        """Train one step and add it to the record.

        Args:
            step: which one; decides learning rate, margins, batches.
            record: receives the loss parts and times.
            stop: this rank was asked to stop after the step.

        Returns:
            Whether any rank was asked to stop; the same on every rank.

        Raises:
            NonFiniteLoss: on every rank, before the update, if the loss of any is not finite.
            DataError: an image could not be read.
        """
        started = time.monotonic()
        engine = self._engine
        frozen = step >= self._config.classifier_start
        engine.network.freeze(frozen=frozen)
        self.learning_rate = self._set_learning_rate(step)
        if not frozen:
            self._statistics.begin_step()
        finite = torch.ones((), dtype=torch.bool, device=engine.world.device)
        for number in range(engine.num_micro_batches):
            waiting = time.monotonic()
            batch = self._loader.next()
            record.waiting_seconds += time.monotonic() - waiting
            # So that dropout depends on the batch alone, not on ranks or on when a run was resumed.
            torch.manual_seed(batch.torch_seed)
            outputs = engine.forward(batch.images.to(engine.world.device, non_blocking=True))
            value = self._objective(outputs, batch.samples.sample_ids, step)
            engine.backward(value.loss)
            if not frozen:
                self._statistics.collect()  # after the backward pass, which reads the statistics
            record.add(value.parts)
            record.images += len(batch.images)
            finite &= torch.isfinite(value.parts["loss"])
            if number == 0:
                record.keep(outputs, value.comparisons)
            if number == engine.num_micro_batches - 1:
                stop = self._agree(step, finite, stop=stop)
            engine.micro_step()
        if not frozen:
            self._statistics.finish(engine.world.mean)
        self._objective.follow_step(engine.world.gather)
        record.seconds += time.monotonic() - started
        return stop

    def check_weights(self, step: int) -> None:
        """Refuse weights that are not finite, before they are written. Every rank must call it.

        A finite loss may have a gradient that is not, which only the next step's loss would show.

        Args:
            step: optimiser steps done.

        Raises:
            NonFiniteLoss: on every rank, if the weights of any are not finite.
        """
        engine = self._engine
        bad = torch.tensor(not engine.is_finite(), dtype=torch.int32)
        if engine.world.sum(bad):
            raise NonFiniteLoss(
                f"the loss was finite, but the weights are not after step {step}; nothing is "
                f"written of them. {_REMEDY}"
            )

    def _set_learning_rate(self, step: int) -> float:
        """Main part and classifier stage each have the whole schedule; the latter no warm-up."""
        optim, start = self._config.optim, self._config.classifier_start
        retrained = step >= start
        factor = learning_rate_factor(
            step - start if retrained else step,
            num_steps=self._config.train.steps - start if retrained else start,
            warmup_steps=0 if retrained else optim.warmup_steps,
            schedule=optim.schedule,
        )
        self._engine.set_learning_rate(factor * optim.learning_rate, retrained=retrained)
        return factor * optim.learning_rate

    def _agree(self, step: int, finite: torch.Tensor, *, stop: bool) -> bool:
        """Before the update: raise everywhere on a loss that is not finite; agree on stopping."""
        world = self._engine.world
        flags = torch.zeros(world.size + 1, dtype=torch.int32, device=world.device)
        flags[world.rank] = (~finite).to(torch.int32)
        flags[-1] = int(stop)
        flags = world.sum(flags)
        stop_requested, bad = bool(flags[-1]), flags[:-1]
        if bad.any():
            ranks = ", ".join(str(r) for r in bad.nonzero().flatten().tolist())
            raise NonFiniteLoss(
                f"the loss is not finite at step {step} on rank {ranks}; the weights were not "
                f"updated. {_REMEDY}"
            )
        return stop_requested
