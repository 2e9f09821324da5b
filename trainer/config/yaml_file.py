"""YAML and `--set` -> configuration, and the reverse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from data_shards.errors import ConfigError
from trainer.config.baselines import check_baseline
from trainer.config.builder import build_config, given_settings, is_text, place
from trainer.config.recipe import Derived, derive_for
from trainer.config.run_config import RunConfig, as_dict
from trainer.config.shipped import config_path


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML silently keeps the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} stands twice; put what belongs to it together",
                    problem_mark=key.start_mark,
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node


def _parsed(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `--set` overrides ("a.b=value") and the recipe, check everything.

    Args:
        path: the file, or a run's folder, which holds its own configuration.
        overrides: of single settings, in this order.

    Raises:
        ConfigError: no such file, not YAML, a key that stands twice or is unknown (the nearest one
            is named), a wrong type, a value out of range, no shards for a recipe.
    """
    return load_with_recipe(path, overrides)[0]


def load_with_recipe(
    path: str | Path, overrides: Sequence[str] = ()
) -> tuple[RunConfig, list[Derived]]:
    """`load_config`, and what the recipe derived of it; nothing without a recipe."""
    raw = _read(path)
    for override in overrides:
        place(raw, *parse_override(override))
    derived = derive_open(raw)
    config = build_config(raw, {item.setting: item.value for item in derived})
    for name in config.baselines:
        check_baseline(config, name)
    return config, derived


def _read(path: str | Path) -> dict[str, Any]:
    try:
        text = config_path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror}; name a file that you can read"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error
    try:
        raw = _parsed(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML; correct it: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold sections (name: ...), got a {type(raw).__name__}")
    return raw


def parse_override(override: str) -> tuple[str, Any]:
    """The dotted setting and the value of one "a.b=value".

    A text is taken as it is written, with its quotes and `#`; any other value is YAML.

    Raises:
        ConfigError: it has no key or no value, or the value is not YAML.
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set needs KEY=VALUE, such as --set train.steps=100, got {override!r}")
    if is_text(key):
        return key, value
    try:
        return key, _parsed(value)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {key}: the value {value!r} is not valid YAML; quote a text"
        ) from error


def derive_open(raw: Mapping[str, Any]) -> list[Derived]:
    """What the recipe derives for the settings that nested dictionaries leave open."""
    named: dict[str, Any] = {k: raw[k] for k in ("recipe", "data", "tasks") if k in raw}
    return derive_for(build_config(named), given_settings(raw))


def to_yaml(config: RunConfig, derived: Sequence[Derived] = ()) -> str:
    """The resolved configuration as YAML; `load_config` of it gives an equal one.

    Args:
        config: the run.
        derived: what its recipe derived, which is listed in comments at the top.
    """
    lines = "".join(f"# {line}\n" for line in recipe_lines(config, derived))
    return lines + yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True)


def recipe_lines(config: RunConfig, derived: Sequence[Derived]) -> list[str]:
    """What a recipe derived and why, a line a setting."""
    return [f"recipe {config.recipe}: {item}" for item in derived]
