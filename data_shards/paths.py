"""Paths as a user writes them: `~` is the home folder."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from data_shards.errors import DataError


def home_expanded(path: str) -> str:
    """A path with the home folder in place of a leading `~` or `~user`.

    Raises:
        DataError: nobody of that name has one.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise DataError(
            f"{path}: there is no home folder {path.split('/')[0]}; write the whole path, or "
            f"./{path} for a folder of that name"
        )
    return expanded


def path_option(text: str) -> Path:
    """`type` of every option that takes a path."""
    return Path(path_or_name(text))


def path_or_name(text: str) -> str:
    """`type` of every option that takes a path or something else, such as a step."""
    try:
        return home_expanded(text)
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
