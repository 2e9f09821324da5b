"""Nested dictionaries -> checked, frozen configuration; and a copy with other settings."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from data_shards.errors import ConfigError, DataError
from trainer.config.renamed import refuse_renamed
from trainer.config.run_config import RunConfig, as_dict
from trainer.losses.registry import LOSSES
from trainer.losses.spec import LossSettings

# Where the shape is not obvious, an error shows it.
_EXAMPLES = {"tasks": ", such as tasks: [{name: gender, label: gender}, {name: age, label: age}]"}


def build_config(
    raw: Mapping[str, Any], settings: Mapping[str, Any] = MappingProxyType({})
) -> RunConfig:
    """Build a `RunConfig` from nested dictionaries.

    Args:
        raw: section -> setting -> value.
        settings: dotted keys ("loss.name") and values that are set on top of these.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value out of range.
    """
    values = copy.deepcopy(dict(raw))
    for key, value in settings.items():
        place(values, key, value)
    refuse_renamed(values)
    config = _build(RunConfig, values, "")
    assert isinstance(config, RunConfig)
    return config


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """A copy in which dotted keys ("loss.name") have other values.

    With another loss than before, the loss section keeps none of its values.
    """
    raw = as_dict(config)
    if settings.get("loss.name", config.loss.name) != config.loss.name:
        raw["loss"] = {}
    return build_config(raw, settings)


def given_settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of sections by their dotted names; unknown ones are left to `build_config`."""
    refuse_renamed(raw)
    given: dict[str, Any] = {}
    for section, kind in typing.get_type_hints(RunConfig).items():
        values = raw.get(section)
        if dataclasses.is_dataclass(kind) and isinstance(values, Mapping):
            hints = typing.get_type_hints(section_class(section, values), include_extras=True)
            given |= {
                f"{section}.{key}": _convert(hints[key], value, f"{section}.{key}")
                for key, value in values.items()
                if key in hints
            }
    return given


def place(raw: dict[str, Any], dotted: str, value: Any) -> None:
    """Put a value under its dotted key into nested dictionaries, in place."""
    *sections, last = dotted.split(".")
    for section in sections:
        inner = raw.setdefault(section, {})
        if inner is None:  # a section left empty in the file
            inner = raw[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(
                f"{dotted}: {section} has no settings inside it; set {section} itself"
            )
        raw = inner
    raw[last] = value


def is_text(dotted: str) -> bool:
    """Whether a setting, or one of a baseline, is any text: `--set` takes it as it is written."""
    section, _, name = dotted.partition(".")
    if section == "baselines":
        section, _, name = name.partition(".")[2].partition(".")
    kind = typing.get_type_hints(RunConfig).get(section)
    kinds = [spec.settings for spec in LOSSES.values()] if kind is LossSettings else [kind]
    return any(
        dataclasses.is_dataclass(each) and typing.get_type_hints(each).get(name) is str
        for each in kinds
    )


def section_class(section: str, values: Mapping[str, Any] | None = None) -> Any:
    """The dataclass of a section of the configuration.

    Args:
        section: a field of `RunConfig`.
        values: what is set in it; a loss has a class of its own, by its `name`.

    Raises:
        ConfigError: there is no such loss; the nearest one is named.
    """
    kind = typing.get_type_hints(RunConfig)[section]
    return _loss_class(values or {}) if kind is LossSettings else kind


def _loss_class(values: Mapping[str, Any]) -> type[LossSettings]:
    name = values.get("name", RunConfig().loss.name)
    if not isinstance(name, str) or name not in LOSSES:
        near = difflib.get_close_matches(str(name), LOSSES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"loss.name must be one of {' | '.join(LOSSES)}, got {name!r}{hint}")
    return LOSSES[name].settings


def _build(kind: Any, raw: Any, where: str) -> Any:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} must be a section (name: value lines), got {raw!r}")
    if kind is LossSettings:
        kind = _loss_class(raw)
    hints = typing.get_type_hints(kind, include_extras=True)
    prefix = f"{where}." if where else ""
    known = [item.name for item in dataclasses.fields(kind)]
    for key in raw:
        if key not in known:
            raise ConfigError(_unknown(kind, f"{prefix}{key}", str(key), prefix))
    for item in dataclasses.fields(kind):
        required = item.default is item.default_factory is dataclasses.MISSING
        if required and item.name not in raw:
            example = _EXAMPLES.get(where.split("[")[0], "")
            raise ConfigError(f"{prefix}{item.name} is missing; add it{example}")
    values = {
        key: _convert(hints[key], value, f"{prefix}{key}")
        for key, value in raw.items()
        # A section written with nothing under it keeps its defaults.
        if not (value is None and dataclasses.is_dataclass(hints[key]))
    }
    return kind(**values)


def _unknown(kind: Any, full: str, key: str, prefix: str) -> str:
    known = [item.name for item in dataclasses.fields(kind)]
    if issubclass(kind, LossSettings):
        others = [n for n, spec in LOSSES.items() if key in _field_names(spec.settings)]
        if others:
            name = next(f.default for f in dataclasses.fields(kind) if f.name == "name")
            return (
                f"unknown setting {full}: loss.name {name} has no such setting, it is of "
                f"{', '.join(others)}; remove it, or choose another loss.name"
            )
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"unknown setting {full}: {hint}"


def _field_names(kind: Any) -> set[str]:
    return {item.name for item in dataclasses.fields(kind)}


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where)
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _prepared(kind, value, where)
    if origin is Literal:
        allowed = typing.get_args(kind)
        if not any(value == choice and type(value) is type(choice) for choice in allowed):
            names = " | ".join(map(str, allowed))  # 3.0 is not 3, nor is true 1
            raise ConfigError(f"{where} must be one of {names}, got {value!r}")
        return value
    if origin is types.UnionType:  # T | None: null leaves the choice to the program
        inner = next(k for k in typing.get_args(kind) if k is not types.NoneType)
        return None if value is None else _convert(inner, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            example = _EXAMPLES.get(where, "")
            raise ConfigError(f"{where} must be a list{example}, got {value!r}")
        inner = typing.get_args(kind)[0]
        return tuple(_convert(inner, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if value is not None and not isinstance(value, Mapping):
            raise ConfigError(f"{where} must map names to values, got {value!r}")
        return dict(value or {})
    return _convert_scalar(kind, value, where)


def _prepared(kind: Any, value: Any, where: str) -> Any:
    """A value of an annotated type, given to the function that annotates it."""
    inner, prepare = typing.get_args(kind)
    try:
        return prepare(_convert(inner, value, where))
    except DataError as error:
        raise ConfigError(f"{where}: {error}") from error


def _convert_scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as a string.
        with contextlib.suppress(ValueError):
            value = float(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} must be a finite number, got {value}")
    if value is None:
        raise ConfigError(
            f"{where} must be of type {kind.__name__}, got null; leave the setting out for its "
            "default"
        )
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        is_plain = kind is str and not isinstance(value, list | dict)
        hint = "; write it in quotes" if is_plain else ""
        raise ConfigError(f"{where} must be of type {kind.__name__}, got {value!r}{hint}")
    return value
