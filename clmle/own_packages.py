"""Checks that `trainer`, `clustering` and so on are clmle's own: a user's folder may hide them.

Python looks in the working directory first, and `trainer` is a common name.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

_PACKAGES = ("data_shards", "clustering", "trainer")


def require_own_packages() -> None:
    """Refuse to start with packages that are not clmle's own; imports none of them.

    Raises:
        ImportError: something else has the name of one of them, or it is not installed.
    """
    root = Path(__file__).resolve().parents[1]
    for name in _PACKAGES:
        found = _place(name)
        if found is None:
            raise ImportError(f"clmle's package {name} is not installed; install clmle again")
        if found.resolve() != root / name:
            raise ImportError(
                f"{found} hides clmle's own package {name!r} in {root}; rename it, or start "
                "Python in another folder"
            )


def _place(name: str) -> Path | None:
    """The folder of a package, or the file of a module; None where there is none."""
    spec = find_spec(name)
    if spec is None:
        return None
    place = next(iter(spec.submodule_search_locations or ()), spec.origin)
    return None if place is None else Path(place)
