"""Settings that follow from the class histogram of the training images: `recipe: long_tail`.

No torch, and no file but the manifest. What a user sets stays as it is, and counts in the rules of
what is left open: fewer images a step, say, make more steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from data_shards.errors import ConfigError, DataError
from data_shards.shards.manifest import Manifest
from trainer.config.recipe_choices import Choices, CountArray, Derived, Histogram
from trainer.config.recipe_rules import DERIVED_SETTINGS, apply_rules
from trainer.config.run_config import RunConfig
from trainer.config.sections import TaskConfig
from trainer.config.tasks import read_manifest, resolve_tasks

__all__ = ["DERIVED_SETTINGS", "Derived", "derive", "derive_for", "derived_settings"]


def derive(
    class_counts: Sequence[CountArray], given: Mapping[str, Any] = MappingProxyType({})
) -> list[Derived]:
    """Derive the settings that are left open.

    Args:
        class_counts: of each task, (C,) training images of each class; classes without an image
            do not count. The task with the most classes decides, the first of equal ones.
        given: dotted settings that are decided, of their own types; they are not derived.

    Returns:
        Some of `DERIVED_SETTINGS`, in that order. Those of the loss section, `sampler.sampling` and
        `sampler.warmup_sampling` only for the loss clmle.

    Raises:
        ConfigError: a task has no training images.
    """
    choices = Choices(given)
    apply_rules(choices, Histogram.of(class_counts))
    return choices.derived


def derived_settings(
    manifest: Manifest,
    tasks: Sequence[TaskConfig],
    given: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """The recipe for shards, as dotted settings for `builder.with_settings`.

    Args:
        manifest: of the shards.
        tasks: the run's.
        given: dotted settings that are decided; they are not among the result.

    Raises:
        ConfigError: a task has no training images.
        DataError: no train split, or no label column of a task.
    """
    return {item.setting: item.value for item in _derive_from(manifest, tasks, given)}


def derive_for(config: RunConfig, given: Mapping[str, Any]) -> list[Derived]:
    """Derive what a run's recipe decides; its shards are read only if something is left open.

    Args:
        config: of which `recipe`, `data` and `tasks` count.
        given: dotted settings that are decided.

    Raises:
        ConfigError: no shards that can be read, or no label column of a task.
    """
    if config.recipe == "none" or all(setting in given for setting in DERIVED_SETTINGS):
        return []
    try:
        manifest = read_manifest(config)
        tasks = resolve_tasks(config, manifest)
        return _derive_from(manifest, tasks, given)
    except DataError as error:
        raise ConfigError(f"recipe {config.recipe} needs data.shards: {error}") from error


def _derive_from(
    manifest: Manifest, tasks: Sequence[TaskConfig], given: Mapping[str, Any]
) -> list[Derived]:
    return derive([manifest.class_counts("train", task.label) for task in tasks], given)
