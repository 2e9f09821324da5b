from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.accuracy.run.rows import make_row
from data_shards.errors import DataError
from tests.helpers.benchmark_records import RECORD, SOFT


def test_a_row_is_a_record_by_its_recipe() -> None:
    made = make_row(RECORD, SOFT)
    assert (made.readout, made.balanced_accuracy) == ("knc_soft", 0.7)
    assert (made.many, made.medium, made.few) == (1.0, 0.8, 0.4)


def test_a_loss_that_became_infinite_is_a_row_without_numbers() -> None:
    made = make_row(replace(RECORD, balanced_accuracy={}, recall_by_size={}), SOFT)
    assert (made.balanced_accuracy, made.many, made.few) == (None, None, None)


def test_a_read_out_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="wants read-out knn, the run has head, knc_soft"):
        make_row(RECORD, replace(SOFT, readout="knn"))
