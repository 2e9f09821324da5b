"""The files of a comparison: JSON, CSV and pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks.accuracy.report.plots import can_plot, plot_all
from benchmarks.accuracy.run.rows import Row
from data_shards.atomic import atomic_file, write_json


def write_files(results: Mapping[str, Any], out: Path) -> list[Path]:
    """Write results; prints a line when matplotlib is missing, and with it the pictures.

    Args:
        results: what `results.summarise` returns.
        out: the JSON file; the others get its name with another suffix.

    Returns:
        The files written.
    """
    rows = [Row(**row) for row in results["results"]]
    write_json(out, results)
    table = out.with_suffix(".csv")
    with atomic_file(table) as temporary:
        temporary.write_text(as_csv(rows), encoding="utf-8")
    written = [out, table]
    if not can_plot():
        print("no pictures: matplotlib is not installed (pip install -e '.[bench]')")
    elif rows:
        written += plot_all(rows, out.with_suffix(""), results["split"])
    return written


def as_csv(rows: Sequence[Row]) -> str:
    """One line per training run, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
