"""What a recipe decides with: the class histogram, and the settings that are decided so far.

Legend: N training images, C classes that have some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_shards.errors import ConfigError
from trainer.config.run_config import RunConfig
from trainer.losses.registry import LOSSES
from trainer.losses.spec import LossSettings, LossSpec

CountArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Histogram:
    """What the rules look at: the task with the most classes."""

    num_images: int
    """N."""
    num_classes: int
    """C."""

    @classmethod
    def of(cls, class_counts: Sequence[CountArray]) -> Histogram:
        """Of (C,) training images of each class, for each task; the first of equals decides.

        Raises:
            ConfigError: a task has no training images.
        """
        present = [counts[counts > 0] for counts in class_counts]
        if not present or not all(map(len, present)):
            raise ConfigError("a recipe needs training images of each task, got a task without any")
        decisive = max(present, key=len)
        return cls(int(decisive.sum()), len(decisive))

    @property
    def mean_class(self) -> float:
        """N / C."""
        return self.num_images / self.num_classes

    @property
    def classes(self) -> str:
        """The number of classes, as a reason."""
        return f"{self.num_classes:,} classes"


@dataclass(frozen=True)
class Derived:
    """One setting, and why it has its value."""

    setting: str
    """Dotted, as in `--set`."""
    value: int | float | str
    reason: str

    def __str__(self) -> str:
        return f"{self.setting} = {self.value}: {self.reason}"


class Choices:
    """Settings that are decided: given ones first, then one by one the derived."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self._default = RunConfig()
        self.derived: list[Derived] = []

    @property
    def _known(self) -> dict[str, Any]:
        return {item.setting: item.value for item in self.derived} | dict(self.given)

    def value(self, setting: str) -> Any:
        """What holds now: given, derived or the default."""
        section, name = setting.split(".")
        default = self._spec.settings() if section == "loss" else getattr(self._default, section)
        return self._known.get(setting, getattr(default, name))

    @property
    def _spec(self) -> LossSpec:
        return LOSSES[self._known.get("loss.name", self._default.loss.name)]

    @property
    def loss(self) -> LossSettings:
        """The loss section as far as it is decided."""
        values = self._known.items()
        return self._spec.settings(
            **{key.removeprefix("loss."): v for key, v in values if key.startswith("loss.")}
        )

    @property
    def sampling(self) -> str:
        """How images are drawn, as far as it is decided."""
        chosen = str(self.value("sampler.sampling"))
        return self._spec.sampling if chosen == "auto" else chosen

    def put(self, setting: str, value: int | float | str, reason: str) -> None:
        """Decide a setting unless it is given."""
        if setting not in self.given:
            self.derived.append(Derived(setting, value, reason))
