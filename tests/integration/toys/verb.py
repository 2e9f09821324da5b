"""A toy verb: repeats its arguments."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cluster_jobs.errors import JobError


def main(argv: Sequence[str] | None = None) -> int:
    """Launch: `clmle toy WORD ...`."""
    if not argv:
        raise JobError("nothing to repeat; clmle toy WORD ...")
    sys.stdout.write(f"{' '.join(argv)}\n")
    return 0
