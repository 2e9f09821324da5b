"""Several trainings at once, a process each."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmarks.accuracy.jobs import Job, record_path

# Imported once, before the trainings are forked: each would spend seconds on them.
_PRELOADED = [
    "benchmarks.accuracy.training",
    "faiss",
    "ray",
    "sklearn.metrics.cluster",
    "torch._dynamo",
    "torch.utils.tensorboard",
]


def run_jobs(
    jobs: Sequence[Job], *, records: Path, work: Path, at_once: int
) -> Iterator[tuple[Job, str | None]]:
    """Do the jobs in their order, several at a time.

    Args:
        jobs: trainings without a record.
        records: folder for their records.
        work: folder for what they need meanwhile.
        at_once: processes.

    Yields:
        Each job when it has ended, and None if its record is there, else what went wrong.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    waiting = list(reversed(jobs))
    running: dict[int, tuple[BaseProcess, Job, Path]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop()
                folder = Path(tempfile.mkdtemp(prefix=f"{job.name}-", dir=work))
                process = _start(context, job, folder, record_path(records, job))
                running[process.sentinel] = process, job, folder
            for sentinel in wait(list(running)):
                assert isinstance(sentinel, int)
                process, job, folder = running.pop(sentinel)
                process.join()
                code = process.exitcode
                yield job, None if code == 0 else _what_went_wrong(folder, code)
    finally:
        for process, _, _ in running.values():
            process.kill()
            process.join()


def _start(context: ForkServerContext, job: Job, folder: Path, record: Path) -> BaseProcess:
    process = context.Process(target=_run, args=(job, folder, record), name=job.name)
    process.start()
    return process


def _run(job: Job, folder: Path, record: Path) -> None:
    # Here, so that the parent need not import torch.
    from benchmarks.accuracy.training import run_job

    run_job(job, folder, record)


def _what_went_wrong(folder: Path, code: int | None) -> str:
    log = folder / "log.txt"
    lines: list[str] = []
    with suppress(OSError):
        lines = log.read_text(errors="replace").strip().splitlines()
    last = f": {lines[-1]}" if lines else ""
    return f"exit code {code}{last} ({log})"
