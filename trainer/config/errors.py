"""What can go wrong in a training."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """A training cannot start or go on."""


class ConfigError(ValueError):
    """A setting is unknown, out of range, or does not fit the others; says what to set."""


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Refuse a setting that is out of range.

    Raises:
        ConfigError: the condition does not hold; names the setting, and what it must be.
    """
    if not condition:
        raise ConfigError(f"{name} must be {expected}, got {got!r}")


def os_error_text(error: OSError) -> str:
    """What the operating system refused, and for which file if it says so."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


class NonFiniteLoss(TrainingError):
    """The loss became infinite or not a number, or its gradient and so the weights.

    Raised before the update, or before such weights are written.
    """


class LateTable(TrainingError):
    """A cluster table did not come in time; raised on every rank at the same step."""


class Stopped(RuntimeError):
    """The training was asked to stop; it wrote a checkpoint and can go on from there."""
