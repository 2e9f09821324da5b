"""The error of this package, and how its messages list names."""

from __future__ import annotations

from collections.abc import Sequence

_MAX_NAMED = 5


class DataError(ValueError):
    """Data, or a setting about data, that cannot be used; says what was found and what to do."""


def named(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
