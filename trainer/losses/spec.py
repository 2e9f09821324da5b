"""The description of a loss. `registry` lists the losses; each is one file of this folder.

No torch is loaded here, nor by reading a loss's file: configurations read them all.

Legend: B images of a micro-batch, N images of a step over all ranks, D embedding, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from data_shards.errors import require
from trainer.losses.batch import StepView, TaskBatch, TaskTable, TermValue

if TYPE_CHECKING:
    from torch import Tensor, device

LabelSampling = Literal[
    "instance", "class_balanced", "square_root", "under", "progressive", "class_groups"
]
"""Ways to draw images by their labels alone."""
Sampling = Literal["cluster", LabelSampling]
Head = Literal["linear", "cosine"]
"""What classifies: a linear head, or unit vectors of the classes, which the loss trains."""


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The `loss` section of a run: a loss has a subclass with the settings that it uses."""

    name: str = ""
    """Which loss (docs/methods.md). Each has settings of its own."""

    # What a run asks of any loss. A subclass overrides a property by a setting of that name.

    @property
    def has_classifier(self) -> bool:
        """Whether the network has a head that classifies."""
        return True

    @property
    def vectors_per_class(self) -> int:
        """Trained vectors that stand for each class where the head is "cosine"."""
        return 1

    @property
    def warmup_share(self) -> float:
        """Share of the training run before the loss itself begins, in [0, 1)."""
        return 0.0

    @property
    def margin_anneal(self) -> float:
        """Share of the training run over which margins grow from 0, in [0, 1]."""
        return 0.0

    @property
    def needs_logit_slopes(self) -> bool:
        """Whether a term asks the network how fast each logit grows along the embedding."""
        return False

    @property
    def compares_within_batch(self) -> bool:
        """Whether an image is compared with the clusters of its batch, which must be near it."""
        return False

    @property
    def sampling_remedy(self) -> str:
        """What else than `sampler.sampling` may be set where it compares within batches."""
        return ""

    def extra_terms(self, class_counts: np.ndarray, device: device) -> list[Term]:
        """Terms that are minimised beside the loss's own.

        Args:
            class_counts: (C,) training images of each class.
            device: of the network's outputs.
        """
        del class_counts, device
        return []

    def ignored_settings(self) -> list[str]:
        """Settings that were changed without effect; each line begins with one."""
        return []

    def warnings(self, sampling: Sampling) -> list[str]:
        """Settings at odds with the run's sampling; each line begins with one."""
        del sampling
        return []

    def _require_at_least(self, least: int, *settings: str) -> None:
        for name in settings:
            value = getattr(self, name)
            require(value >= least, f"loss.{name}", f">= {least}", value)

    def _require_above_0(self, *settings: str) -> None:
        for name in settings:
            require(getattr(self, name) > 0, f"loss.{name}", "> 0", getattr(self, name))

    def _require_share(self, *settings: str) -> None:
        for name in settings:
            require(0 <= getattr(self, name) <= 1, f"loss.{name}", "in [0, 1]", getattr(self, name))


class Term:
    """One part of the loss of a task. Most need no more than `__call__`.

    A term that keeps statistics from step to step (`follows_steps`) is given every step, and its
    state is saved with each checkpoint.
    """

    in_warmup: ClassVar[bool] = False
    """Whether it is minimised before `loss.warmup_share`, too."""

    def __call__(self, batch: TaskBatch) -> TermValue:
        """The mean over the images of a micro-batch, and its parts."""
        raise NotImplementedError

    @property
    def follows_steps(self) -> bool:
        """Whether `follow` wants to see the embeddings of every step with a table."""
        return False

    def follow(self, step: StepView, table: TaskTable) -> None:
        """Update the statistics after a step; the same on every rank."""

    def state(self, table: TaskTable | None) -> Mapping[str, Tensor]:
        """What `restore` needs, by name; empty where nothing is kept."""
        del table
        return {}

    def restore(self, state: Mapping[str, Tensor], table: TaskTable | None) -> None:
        """Restore a saved `state`, as far as this term still keeps it."""


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """One loss: how it is set, what it needs of the other parts, and how it is computed."""

    settings: type[LossSettings]
    """Its `name` has a default, which is the name of the loss."""
    make_term: Callable[[Any, np.ndarray, device], Term]
    """(settings, (C,) training images of each class, device of the network's outputs) -> term."""
    head: Head = "linear"
    needs_table: bool = False
    """Whether it is defined on the clusters of a table."""
    sampling: Sampling = "instance"
    """What `sampler.sampling` auto means."""
    readout: str = "head"
    """The read-out that it is meant for."""
    readout_with_head: str | None = None
    """The same where a linear head is trained beside it; None for no difference."""

    @property
    def name(self) -> str:
        """As in `loss.name`."""
        (name,) = (f.default for f in dataclasses.fields(self.settings) if f.name == "name")
        assert name, f"{self.settings.__name__}.name has no default"
        return str(name)

    def readout_of(self, settings: LossSettings) -> str:
        """The read-out that the loss is meant for, with these settings."""
        if self.readout_with_head is not None and settings.has_classifier:
            return self.readout_with_head
        return self.readout
