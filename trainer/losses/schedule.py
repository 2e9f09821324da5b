"""How margins, augmentation and learning rate change over the steps of a training run."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple


def step_at(share: float, num_steps: int) -> int:
    """The step at which a share of the training run, in [0, 1], is over."""
    return round(share * num_steps)


class Clock(NamedTuple):
    """The progress of a training run; shares in the settings of a loss are shares of its steps."""

    step: int
    """The current step; 0 is the first."""
    warmup_end: int
    """The first step after the warm-up; 0 without one."""
    num_steps: int
    """Length of the training run, without a classifier stage after it."""

    def is_past(self, share: float) -> bool:
        """Whether a share of the training run, in [0, 1], is over."""
        return self.step >= step_at(share, self.num_steps)

    def margin_factor(self, anneal_share: float) -> float:
        """Share of the full margins at this step, in [0, 1] (`margin_factor`)."""
        since_warmup = self.step - self.warmup_end
        return margin_factor(since_warmup, num_steps=self.num_steps, anneal_share=anneal_share)

    def isda_factor(self) -> float:
        """Share of the full augmentation at this step, in [0, 1] (`isda_factor`)."""
        return isda_factor(self.step, first_step=self.warmup_end, num_steps=self.num_steps)


def margin_factor(step: int, *, num_steps: int, anneal_share: float) -> float:
    """Share of the full margins at a step, in [0, 1].

    Args:
        step: 0 is the first; before it, margins are 0.
        num_steps: length of the training run.
        anneal_share: share of the training run, in [0, 1], over which margins grow linearly from 0.
            0 = full margins from the first step.
    """
    growing_steps = anneal_share * num_steps
    if step < 0:
        return 0.0
    return min(1.0, step / growing_steps) if growing_steps > 0 else 1.0


def isda_factor(step: int, *, first_step: int, num_steps: int) -> float:
    """Share of the full `loss.isda_strength` at a step, in [0, 1]: linear from 0.

    Args:
        step: 0 is the first of the training run.
        first_step: the first with tables.
        num_steps: length of the training run, where the share would be 1.
    """
    return min(1.0, max(0.0, (step - first_step) / max(1, num_steps - first_step)))


def learning_rate_factor(
    step: int, *, num_steps: int, warmup_steps: int, schedule: Literal["cosine", "constant"]
) -> float:
    """Share of the peak learning rate at a step, in [0, 1].

    Args:
        step: 0 is the first.
        num_steps: length of the training run; "cosine" would reach 0 at this step, one after the
            last.
        warmup_steps: steps of linear growth; the first of them already learns.
        schedule: what follows the warm-up.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
