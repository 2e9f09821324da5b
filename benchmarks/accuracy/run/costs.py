"""How long the training runs that are left will take, estimated from finished ones."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.accuracy.run.jobs import Job
from benchmarks.accuracy.run.methods import METHODS
from benchmarks.accuracy.run.records import Record

_SECONDS_PER_IMAGE = 0.0004
"""Of a softmax run on one core of a 2026 server, with start and evaluation."""


class CostEstimate:
    """Seconds an image, from what was measured.

    The median of the same data set and method where there is one, else of the data set (times the
    methods' stated ratio), else of any softmax run. Those may be of another machine; `add` scales
    all estimates by runs of this one.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._measured: dict[tuple[str, str], list[float]] = {}
        self._by_data: dict[str, list[float]] = {}
        for record in records:
            if not record.balanced_accuracy or record.method not in METHODS:
                continue  # ended early, or a method that no longer exists
            rate = record.seconds / record.images_seen
            self._measured.setdefault((record.data, record.method), []).append(rate)
            as_softmax = rate / METHODS[record.method].cost
            self._by_data.setdefault(record.data, []).append(as_softmax)

        self._expected = self._spent = 0.0

    def add(self, record: Record) -> None:
        """Take a run into account that has just ended on this machine."""
        if record.balanced_accuracy:
            rate = self._seconds_per_image(record.data, record.method)
            self._expected += record.images_seen * rate
            self._spent += record.seconds

    def seconds(self, job: Job) -> float:
        """Core seconds of a job."""
        slowness = self._spent / self._expected if self._expected else 1.0
        return job.num_images * self._seconds_per_image(job.data, job.method) * slowness

    def wall_seconds(self, jobs: Sequence[Job], at_once: int) -> float:
        """How long the jobs take, so many at a time."""
        each = [self.seconds(job) for job in jobs]
        return max([sum(each) / at_once, *each]) if each else 0.0

    def _seconds_per_image(self, data: str, method: str) -> float:
        if (data, method) in self._measured:
            return statistics.median(self._measured[data, method])
        if data in self._by_data:
            return statistics.median(self._by_data[data]) * METHODS[method].cost
        return _SECONDS_PER_IMAGE * METHODS[method].cost


def in_words(seconds: float) -> str:
    """A duration in words: 45 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
