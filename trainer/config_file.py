"""YAML and `--set` -> checked, frozen configuration; the reverse; and its reference page."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import difflib
import inspect
import math
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from trainer.config import RunConfig, as_dict
from trainer.errors import ConfigError
from trainer.recipe import Derived, derive_for


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `--set` overrides ("a.b=value") and the recipe, check everything.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (the nearest one is named), a wrong
            type, a value out of range, no shards for a recipe.
    """
    return load_with_recipe(path, overrides)[0]


def load_with_recipe(
    path: str | Path, overrides: Sequence[str] = ()
) -> tuple[RunConfig, list[Derived]]:
    """`load_config`, and what the recipe derived of it; nothing without a recipe."""
    raw = _read(path)
    for override in overrides:
        apply_override(raw, override)
    derived = fill_open(raw)
    config = build_config(raw)
    for name, settings in config.baselines.items():
        _check_baseline(config, name, settings)
    return config, derived


def _read(path: str | Path) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    try:
        raw = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold sections (name: ...), got a {type(raw).__name__}")
    return raw


def fill_open(raw: dict[str, Any]) -> list[Derived]:
    """Put what the recipe of nested dictionaries derives into them, in place; return it."""
    named: dict[str, Any] = {k: raw[k] for k in ("recipe", "data", "tasks") if k in raw}
    derived = derive_for(build_config(named), _given(raw))
    for item in derived:
        _place(raw, item.setting, item.value)
    return derived


def _given(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of sections by their dotted names; unknown ones are left to `build_config`."""
    given: dict[str, Any] = {}
    for section, kind in typing.get_type_hints(RunConfig).items():
        values = raw.get(section)
        if dataclasses.is_dataclass(kind) and isinstance(values, Mapping):
            hints = typing.get_type_hints(kind)
            given |= {
                f"{section}.{key}": _convert(hints[key], value, f"{section}.{key}")
                for key, value in values.items()
                if key in hints
            }
    return given


def build_config(raw: Mapping[str, Any]) -> RunConfig:
    """Build a `RunConfig` from plain dictionaries."""
    config = _build(RunConfig, raw, "")
    assert isinstance(config, RunConfig)
    return config


def with_settings(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """A copy in which dotted keys ("loss.name") have other values."""
    return _build_with(as_dict(config), settings)


def _build_with(raw: dict[str, Any], settings: Mapping[str, Any]) -> RunConfig:
    for key, value in settings.items():
        _place(raw, key, value)
    return build_config(raw)


def baseline_config(config: RunConfig, name: str) -> RunConfig:
    """The configuration of one of `config.baselines`: as many images, its own run folder.

    The run's loss section and its samplings are fitted to its own loss, so a baseline of another
    one starts from the defaults there; it shares the data, the model, the batches' shape, the
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
    return _build_with(raw, settings)


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


def _check_baseline(config: RunConfig, name: str, settings: Any) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _-]*", name):
        raise ConfigError(
            f"baselines: {name!r} becomes the name of a folder, so it must be a letter or digit, "
            "then letters, digits, spaces, - and _"
        )
    if " " in name and name.replace(" ", "_") in config.baselines:
        raise ConfigError(f"baselines: {name!r} and {name.replace(' ', '_')!r} share a folder")
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


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Put one "a.b=value" (value in YAML) into nested dictionaries, in place."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set needs KEY=VALUE, such as --set train.steps=100, got {override!r}")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: the value {value!r} is not valid YAML") from error
    _place(raw, key, parsed)


def _place(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        inner = raw.setdefault(section, {})
        if inner is None:  # a section left empty in the file
            inner = raw[section] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{dotted}: {section} has no settings inside it")
        raw = inner
    raw[last] = value


def _build(kind: Any, raw: Any, where: str) -> Any:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} must be a section (name: value lines), got {raw!r}")
    hints = typing.get_type_hints(kind)
    prefix = f"{where}." if where else ""
    known = [item.name for item in dataclasses.fields(kind)]
    for key in raw:
        if key not in known:
            raise ConfigError(_unknown(f"{prefix}{key}", str(key), known, prefix))
    for item in dataclasses.fields(kind):
        required = item.default is item.default_factory is dataclasses.MISSING
        if required and item.name not in raw:
            raise ConfigError(f"{prefix}{item.name} is missing")
    values = {
        key: _convert(hints[key], value, f"{prefix}{key}")
        for key, value in raw.items()
        # A section written with nothing under it keeps its defaults.
        if not (value is None and dataclasses.is_dataclass(hints[key]))
    }
    try:
        return kind(**values)
    except ConfigError:
        raise
    except ValueError as error:  # sections of other packages
        raise ConfigError(str(error)) from error


def _unknown(full: str, key: str, known: Sequence[str], prefix: str) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"unknown setting {full}: {hint}"


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where)
    origin = typing.get_origin(kind)
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
            raise ConfigError(f"{where} must be a list, got {value!r}")
        inner = typing.get_args(kind)[0]
        return tuple(_convert(inner, v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if value is not None and not isinstance(value, Mapping):
            raise ConfigError(f"{where} must map names to values, got {value!r}")
        return dict(value or {})
    return _convert_scalar(kind, value, where)


def _convert_scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and isinstance(value, str):
        # YAML 1.1 reads 1e-3 as a string.
        with contextlib.suppress(ValueError):
            value = float(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} must be a finite number, got {value}")
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where} must be of type {kind.__name__}, got {value!r}")
    return value


def to_yaml(config: RunConfig, derived: Sequence[Derived] = ()) -> str:
    """The resolved configuration as YAML; `load_config` of it gives an equal one.

    Args:
        config: the run.
        derived: what its recipe derived, which is told in comments on top.
    """
    told = "".join(f"# {line}\n" for line in recipe_lines(config, derived))
    return told + yaml.safe_dump(as_dict(config), sort_keys=False, allow_unicode=True)


def recipe_lines(config: RunConfig, derived: Sequence[Derived]) -> list[str]:
    """What a recipe derived and why, a line a setting."""
    return [f"recipe {config.recipe}: {item}" for item in derived]


def config_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """A command line with the options that every job with a configuration has."""
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file of the run")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="a.b=v",
        help="change one setting, such as --set train.steps=100 (repeatable)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved configuration and stop"
    )
    return parser


def add_resume_option(parser: argparse.ArgumentParser) -> None:
    """Where a training goes on from."""
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|none|PATH",
        help="go on from the newest checkpoint of the run (auto, default), from none, or from PATH",
    )


def reference() -> str:
    """The reference page of all settings, in Markdown, made from the dataclasses."""
    lines = [
        "# Configuration",
        "",
        "One YAML file a run; every setting has a default. Made from the dataclasses by",
        "`python -m trainer.config_file > docs/configuration.md`; do not edit by hand.",
        "`clmle run --config FILE --dry-run` prints a run's resolved settings.",
    ]
    hints = typing.get_type_hints(RunConfig)
    top = field_docs(RunConfig)
    for section in dataclasses.fields(RunConfig):
        kind, text = hints[section.name], top.get(section.name, "")
        if typing.get_origin(kind) is tuple:
            kind = typing.get_args(kind)[0]
        lines += ["", f"## `{section.name}`", ""]
        if dataclasses.is_dataclass(kind):
            lines += [" ".join(filter(None, [_first_paragraph(kind), text])), ""]
            lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
            lines += list(_rows(kind, section.name))
        else:
            lines.append(text)
    return "\n".join(lines) + "\n"


def _first_paragraph(kind: Any) -> str:
    return " ".join(inspect.cleandoc(kind.__doc__).split("\n\n")[0].split())


def _rows(kind: Any, section: str) -> Iterator[str]:
    docs, hints = field_docs(kind), typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        default: Any = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        elif default is dataclasses.MISSING:
            default = "(required)"
        shown = "null" if default is None else str(default)
        shown = shown.lower() if isinstance(default, bool) else shown
        text = docs.get(item.name, "").replace("|", "\\|")
        name = _type_name(hints[item.name]).replace("|", "\\|")
        yield f"| `{section}.{item.name}` | {name} | `{shown}` | {text} |"


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " | ".join(map(str, typing.get_args(kind)))
    if isinstance(kind, types.UnionType):
        return " | ".join("null" if k is types.NoneType else k.__name__ for k in kind.__args__)
    if isinstance(kind, types.GenericAlias):
        return "mapping"
    return str(kind.__name__)


def field_docs(kind: Any) -> dict[str, str]:
    """The string literal under each field of a dataclass, on one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    docs = {}
    for statement, following in zip(body, body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs


if __name__ == "__main__":
    import sys

    sys.stdout.write(reference())
