"""Which settings make a run what it is, and which may change when it is resumed.

A setting that only decides who computes, when, or how long, changes no result: its dataclass field
is marked with `MAY_CHANGE`. All other settings are the identity of a run, or of a table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

_KEY = "may_change"
MAY_CHANGE: Mapping[str, bool] = MappingProxyType({_KEY: True})
"""`metadata` of a field whose value may differ between a run and its continuation."""


def fixed_settings(settings: Any) -> dict[str, Any]:
    """The values that must stay the same.

    Args:
        settings: a dataclass; a field that holds a dataclass is a section of it.

    Returns:
        Name -> value of the fields without `MAY_CHANGE`; "section.name" inside a section.
    """
    found: dict[str, Any] = {}
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if item.metadata.get(_KEY):
            continue
        if dataclasses.is_dataclass(value):
            found |= {f"{item.name}.{name}": inner for name, inner in fixed_settings(value).items()}
        else:
            found[item.name] = value
    return found


def changed(section: Any, *settings: str) -> Iterator[str]:
    """Which of some settings of a section have another value than their default."""
    defaults = {item.name: item.default for item in dataclasses.fields(section)}
    return (name for name in settings if getattr(section, name) != defaults[name])
