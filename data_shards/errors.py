"""The errors that a user may meet, and the exit code of each; every other package adds its own.

An exit code of 2 means a mistake that the user can fix: a setting, the data, an option. 1 means
that something failed while it ran, 130 that the user stopped it.
"""

from __future__ import annotations

import codecs
import errno
import sys
from collections.abc import Sequence

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130

_MAX_NAMED = 5


class ClmleError(Exception):
    """Base of the errors that end a command with one message: what was found, and what to do."""

    exit_code = FAILED


class DataError(ClmleError, ValueError):
    """Data, or a setting about data, that cannot be used."""

    exit_code = MISTAKE


class ConfigError(ClmleError, ValueError):
    """A setting is unknown, out of range, or does not fit the others; says what to set."""

    exit_code = MISTAKE


class DiskError(ClmleError, RuntimeError):
    """A file cannot be written; says which, why, how much room there is, and what to do."""

    exit_code = FAILED


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Refuse a setting that is out of range.

    Raises:
        ConfigError: the condition does not hold; names the setting, and what it must be.
    """
    if not condition:
        raise ConfigError(f"{name} must be {expected}, got {got!r}")


def exit_code_and_message(error: BaseException) -> tuple[int, str]:
    """The exit code and message for an error: the one rule for every command.

    Args:
        error: whatever ended the command.

    Returns:
        Exit code and the line to show.

    Raises:
        BaseException: the error itself, if it is a bug, whose traceback should be shown.
    """
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "stopped"
    if isinstance(error, ClmleError):
        return error.exit_code, f"error: {error}"
    if isinstance(error, OSError):
        return FAILED, f"error: {os_error_text(error)}"
    if isinstance(error, UnicodeEncodeError) and _is_of_locale(error.encoding):
        return MISTAKE, (
            f"error: {error.object!a} cannot be the name of a file in this locale, whose encoding "
            f"is {error.encoding}; set LC_ALL=C.UTF-8"
        )
    raise error


def _is_of_locale(encoding: str) -> bool:
    """Whether names of files have an encoding that lacks most letters, and it is this one."""
    of_files = codecs.lookup(sys.getfilesystemencoding())
    return codecs.lookup(encoding) == of_files != codecs.lookup("utf-8")


def os_error_text(error: OSError) -> str:
    """The operating system's reason, with the file if it names one."""
    reason = error.strerror or str(error)
    if error.filename:
        return f"{error.filename}: {reason}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):  # what we write ourselves is a DiskError
        return f"{reason}: make room where the output goes, and in the folder that TMPDIR names"
    return reason


def named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
