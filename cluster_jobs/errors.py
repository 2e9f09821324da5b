"""How every job ends: well, or with one clear message and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

ERROR_EXIT_CODE = 2


class JobError(RuntimeError):
    """A job cannot go on; says what happened and what to do."""


class PartFailed(JobError):
    """A part that a job had started ended before its time."""


def run_job(job: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run a job's main function; what the user can mend becomes a message without a traceback.

    Args:
        job: takes the arguments without the program's name, returns the exit code.
        argv: the arguments; those of the process when None.

    Returns:
        The job's own code; 1 when a part that it had started failed; 2 for any other error that is
        told in one message; 130 after Ctrl-C.
    """
    from clustering.errors import ClusterError
    from data_shards.errors import ConfigError, DataError, os_error_text
    from trainer.config.errors import TrainingError

    try:
        return job(argv)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130
    except PartFailed as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except (ConfigError, DataError, ClusterError, TrainingError, JobError) as error:
        sys.stderr.write(f"error: {error}\n")
    except OSError as error:
        sys.stderr.write(f"error: {os_error_text(error)}\n")
    return ERROR_EXIT_CODE
