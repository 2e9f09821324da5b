"""Which DeepSpeed trains correctly; told from its version, without importing it."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from data_shards.errors import ConfigError

LEAST = "0.18.3"
"""From 0.17.6 on, ZeRO 2 lost gradients of all micro-batches but one (DeepSpeed issue 7718)."""


def check_deepspeed(installed: str | None = None) -> None:
    """Refuse a DeepSpeed that is too old.

    Args:
        installed: its version; that of the installed package when None.

    Raises:
        ConfigError: it may compute wrong gradients.
    """
    try:
        found = installed or version("deepspeed")
    except PackageNotFoundError:  # whoever imports it says so
        return
    if _numbers(found) < _numbers(LEAST):
        raise ConfigError(
            f"DeepSpeed {found} is installed, {LEAST} or newer is needed: with 0.17.6 to 0.18.2, "
            f'ZeRO 2 computes wrong gradients; pip install "deepspeed>={LEAST}"'
        )


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)[:3]]
