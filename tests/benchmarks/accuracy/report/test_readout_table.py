from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.accuracy.report.readout_table import readout_cells, summarise_readouts
from benchmarks.accuracy.run.records import Record
from tests.helpers.benchmark_records import RECORD


def test_one_read_out_for_all_data_sets() -> None:
    def trained(method: str, data: str, **values: float) -> Record:
        return replace(RECORD, method=method, data=data, balanced_accuracy=values)

    records = [
        trained("a", "digits", head=0.5, ncm=0.1),
        trained("a", "digits", head=0.7, ncm=0.3),
        trained("a", "lfw10", head=0.2, ncm=0.6, knn=0.9),
        trained("b", "digits", head=1.0),
        trained("c", "digits", ncm=0.5),
        trained("c", "lfw10"),  # its loss became infinite
    ]
    found = summarise_readouts(records, ["lfw10", "digits"])
    assert found == {
        "a": {"head": pytest.approx((0.6 + 0.2) / 2), "ncm": pytest.approx((0.2 + 0.6) / 2)},
        "c": {},
    }
    assert readout_cells(found) == [
        ["one read-out for all data sets", "head", "ncm"],
        ["a", "0.4000", "0.4000"],
        ["c", "-", "-"],
    ]
