"""Several training runs at once, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from benchmarks.accuracy.run.jobs import Job
from benchmarks.accuracy.run.records import RECORD_FILE, Record
from data_shards.atomic import read_json

# Imported once, before the training runs are forked: each would spend seconds on them.
_PRELOADED = [
    "benchmarks.accuracy.run.worker",
    "faiss",
    "ray",
    "sklearn.metrics.cluster",
    "torch._dynamo",
    "torch.utils.tensorboard",
]


def run_jobs(
    jobs: Sequence[Job], *, work: Path, at_once: int
) -> Iterator[tuple[Job, Record | str]]:
    """Run the jobs in their order, several at a time.

    Args:
        jobs: training runs without a record.
        work: folder for their files; a job that failed leaves its log there.
        at_once: processes.

    Yields:
        Each job when it has ended, with its record, or what went wrong.
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
                process = _start(context, job, folder)
                running[process.sentinel] = process, job, folder
            for sentinel in wait(list(running)):
                assert isinstance(sentinel, int)
                process, job, folder = running.pop(sentinel)
                process.join()
                yield job, _outcome(folder, process.exitcode)
    finally:
        for process, _, _ in running.values():
            process.kill()
            process.join()


def _start(context: ForkServerContext, job: Job, folder: Path) -> BaseProcess:
    process = context.Process(target=_run, args=(job, folder), name=job.name)
    process.start()
    return process


def _run(job: Job, folder: Path) -> None:
    # Here, so that the parent need not import DeepSpeed.
    from benchmarks.accuracy.run.worker import run_job

    run_job(job, folder)


def _outcome(folder: Path, code: int | None) -> Record | str:
    if code == 0:
        record = Record(**read_json(folder / RECORD_FILE))
        shutil.rmtree(folder)
        return record
    log = folder / "log.txt"
    lines: list[str] = []
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = f": {lines[-1]}" if lines else ""
    return f"exit code {code}{last} ({log})"
