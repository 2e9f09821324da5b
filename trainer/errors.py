"""What can go wrong in a training run, beside its configuration and its data."""

from __future__ import annotations

from data_shards.errors import MISTAKE, ClmleError


class TrainingError(ClmleError, RuntimeError):
    """A training run cannot start or continue."""


class NonFiniteLoss(TrainingError):
    """The loss became infinite or not a number, or its gradient and so the weights.

    Raised before the update, or before such weights are written.
    """


class LostRanks(TrainingError):
    """Ranks do not answer, or were never there."""


class UnusableSnapshot(ClmleError, RuntimeError):
    """A snapshot that was asked for does not exist, or has no cluster tables."""

    exit_code = MISTAKE


class LateTable(TrainingError):
    """A cluster table did not come in time; raised on every rank at the same step."""


class Stopped(ClmleError, RuntimeError):
    """The training run was asked to stop; it wrote a checkpoint and can resume from there."""
