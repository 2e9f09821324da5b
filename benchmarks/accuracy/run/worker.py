"""A process of the benchmark: one training run, from its settings to its record.

DeepSpeed cannot be started twice in a process, so each run has its own. It is forked
from one that has imported everything, hence the imports at the top.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.run.jobs import Job, class_sizes
from benchmarks.accuracy.run.records import RECORD_FILE, Record
from benchmarks.accuracy.run.tables import TableThread
from data_shards.atomic import read_json, write_json
from data_shards.shards.manifest import Manifest
from trainer.config.builder import with_settings
from trainer.errors import NonFiniteLoss
from trainer.evaluation.shot_groups import mean_recall, shot_groups
from trainer.run.folder import RunFolder
from trainer.train import train


def run_job(job: Job, work: Path) -> None:
    """Train, write the record. The process is to end afterwards.

    Args:
        job: the training run.
        work: a folder of this attempt's own; receives the log, and in the end `RECORD_FILE`.
    """
    started = time.monotonic()
    _redirect_output(work / "log.txt")
    _end_with_benchmark()
    torch.set_num_threads(1)
    report = _train(job, work / "run")
    record = Record(
        data=job.data,
        method=job.method,
        seed=job.seed,
        split=job.split,
        chosen=dict(job.chosen),
        balanced_accuracy=report["balanced_accuracy"],
        recall_by_size=_by_size(job, report["per_class_recall"]),
        images_seen=job.num_images,
        precision=job.config.train.precision,
        seconds=round(time.monotonic() - started, 2),
    )
    write_json(work / RECORD_FILE, asdict(record))


def _by_size(job: Job, recall: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    groups = shot_groups(class_sizes(Manifest.load(job.config.data.shards)))
    return {
        readout: {
            name: mean_recall(values, np.flatnonzero(chosen)) for name, chosen in groups.items()
        }
        for readout, values in recall.items()
    }


def _train(job: Job, folder: Path) -> dict[str, Any]:
    """The report; without numbers when the loss became infinite, which is a result too."""
    config = with_settings(job.config, {"run.folder": str(folder)})
    try:
        with TableThread(config):
            train(config, resume="none")
    except NonFiniteLoss as error:
        logging.warning("%s", error)
        return {"balanced_accuracy": {}, "per_class_recall": {}}
    return read_json(RunFolder(folder).report)


def _redirect_output(path: Path) -> None:
    """Send everything that this process prints, C++ included, to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)


def _end_with_benchmark() -> None:
    """End this process as soon as the benchmark's ends: a killed one leaves nothing running."""
    benchmark = multiprocessing.parent_process()
    assert benchmark is not None

    def watch() -> None:
        benchmark.join()
        os._exit(1)

    threading.Thread(target=watch, name="benchmark watch", daemon=True).start()
