from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy.run.datasets import import_data
from benchmarks.accuracy.run.jobs import class_sizes, make_job
from benchmarks.accuracy.run.worker import _by_size


def test_recall_is_kept_by_size_of_class(tmp_path: Path) -> None:
    digits = import_data("digits", None, tmp_path, validation=False)
    job = make_job("digits", "clmle", seed=0, chosen={}, manifest=digits, split="test")
    sizes = class_sizes(digits)
    recall = [size / 1000 for size in sizes.tolist()]
    kept = _by_size(job, {"head": recall, "ncm": [None] * len(sizes)})
    groups = {"many": sizes > 100, "medium": (sizes >= 20) & (sizes <= 100), "few": sizes < 20}
    for name, chosen in groups.items():
        assert chosen.any()
        assert kept["head"][name] == pytest.approx(np.array(recall)[chosen].mean())
        assert kept["ncm"][name] is None
