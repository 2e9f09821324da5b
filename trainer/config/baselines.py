"""Baselines of a run: other methods, trained on as many images."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_shards.errors import ConfigError
from trainer.config.builder import build_config
from trainer.config.run_config import RunConfig, as_dict


def baseline_config(config: RunConfig, name: str) -> RunConfig:
    """The configuration of one of `config.baselines`: as many images, its own run folder.

    The run's loss section and its samplings are fitted to its own loss, so a baseline of another
    one starts from the defaults there; it shares the data, the model, the batches' size, the
    optimiser and the number of steps. No tables are made while it trains (`refresh.every` is 0)
    unless it says so itself.
    """
    settings = _dotted(config.baselines[name])
    folder = Path(config.run.folder) / "baselines" / name.replace(" ", "_")
    raw = as_dict(config)
    if settings.get("loss.name", config.loss.name) != config.loss.name:
        raw["loss"] = {}
        for key in ("sampling", "warmup_sampling"):
            del raw["sampler"][key]
    settings = {"refresh.every": 0, "baselines": {}, **settings, "run.folder": str(folder)}
    return build_config(raw, settings)


def _dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with sections inside ("loss: {name: ...}", `--set baselines.X.loss.name`) as dotted.

    So a section that is named changes what stands in it, and keeps the rest of the run's.
    """
    kinds = typing.get_type_hints(RunConfig)
    dotted: dict[str, Any] = {}
    for key, value in settings.items():
        if dataclasses.is_dataclass(kinds.get(key)) and isinstance(value, Mapping):
            dotted |= {f"{key}.{inner}": setting for inner, setting in value.items()}
        else:
            dotted[key] = value
    return dotted


def check_baseline(config: RunConfig, name: str) -> None:
    """Refuse a baseline that cannot be trained beside its run.

    Raises:
        ConfigError: its name is no folder's or taken, a setting is wrong, or it would see another
            number of images.
    """
    settings = config.baselines[name]
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _-]*", name):
        raise ConfigError(
            f"baselines: {name!r} becomes the name of a folder, so it must be a letter or digit, "
            "then letters, digits, spaces, - and _"
        )
    if " " in name and name.replace(" ", "_") in config.baselines:
        raise ConfigError(
            f"baselines: {name!r} and {name.replace(' ', '_')!r} share a folder; rename one"
        )
    if not isinstance(settings, dict):
        raise ConfigError(f"baselines.{name} must map settings to values, got {settings!r}")
    try:
        baseline = baseline_config(config, name)
    except ConfigError as error:
        raise ConfigError(f"baselines.{name}: {error}") from error
    ours = config.images_per_step * config.train.steps
    theirs = baseline.images_per_step * baseline.train.steps
    if ours != theirs:
        raise ConfigError(
            f"baselines.{name} would see {theirs:,} images and the run {ours:,}: "
            "a comparison needs the same number; change train.steps or the sampler with it"
        )
