"""The error of this package."""

from __future__ import annotations


class DataError(ValueError):
    """Data, or a setting about data, that cannot be used; says what was found and what to do."""
