"""How every job ends: well, or with one clear message and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from data_shards.errors import FAILED, MISTAKE, ClmleError, exit_code_and_message
from data_shards.streams import write_any_name


class JobError(ClmleError, RuntimeError):
    """A job cannot do what it was asked to; says what to change."""

    exit_code = MISTAKE


class PartFailed(ClmleError, RuntimeError):
    """A process that a job needs ended, or stopped answering, before its time."""

    exit_code = FAILED


def run_job(job: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run a job's main function; errors that are meant for the user become one message.

    Args:
        job: takes the arguments without the program's name, returns the exit code.
        argv: the arguments; those of the process when None.

    Returns:
        The job's own code, or that of the error that ended it (`exit_code_and_message`).
    """
    write_any_name()
    try:
        return job(argv)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - raised again if a bug
        code, message = exit_code_and_message(error)
    sys.stderr.write(f"{message}\n")
    return code
