from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.accuracy.report.files import as_csv
from benchmarks.accuracy.report.plots import SUFFIXES, plot_all
from tests.helpers.benchmark_records import row_of_record


def test_csv_has_a_line_per_training_run() -> None:
    lines = as_csv([row_of_record("a", 0.5), row_of_record("b", None)]).splitlines()
    assert lines[0] == (
        "data,method,seed,readout,balanced_accuracy,many,medium,few,images_seen,precision,seconds"
    )
    assert lines[1:] == [
        "digits,a,0,knc_soft,0.5,1.0,0.8,0.4,6000,fp32,12.0",
        "digits,b,0,knc_soft,,1.0,0.8,0.4,6000,fp32,12.0",
    ]


def test_pictures_are_drawn(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    rows = [
        row_of_record("softmax", 0.5),
        row_of_record("clmle", 0.7),
        row_of_record("clmle", 0.8, seed=1),
    ]
    rows += [
        row_of_record("softmax", None, data="lfw10"),
        replace(rows[1], data="lfw10", many=None),
    ]
    written = plot_all(rows, tmp_path / "results", "validation")
    names = [f"results-{name}.{suffix}" for name in ("accuracy", "recall") for suffix in SUFFIXES]
    assert [path.name for path in written] == names
    assert written[0].read_bytes().startswith(b"\x89PNG")
    picture = written[1].read_text()
    assert "<svg" in picture
    assert "on the validation images" in picture  # matplotlib notes each text beside its outlines
