"""A read-out is a function and an entry in the registry: no other file has to know of it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from cluster_jobs import classify
from cluster_jobs.comparison import comparison_table, evaluation_table
from clustering.table import store
from data_shards.shards.index import SampleIndex
from tests.cluster_jobs.conftest import TinyRun
from tests.helpers.image_shards import COLUMN
from trainer.config.tasks import resolve_tasks
from trainer.evaluation.evaluate import count_batches, evaluation_batches
from trainer.evaluation.readout import IntArray, Need, Queries, ReadOut, needed
from trainer.evaluation.registry import READ_OUTS
from trainer.evaluation.report import summarise
from trainer.run.folder import step_name
from trainer.state.snapshot import load_network, read_snapshot

pytestmark = pytest.mark.ray


def largest_class(queries: Queries) -> IntArray:
    """A toy: the class with the most clusters, whatever the image."""
    table = needed(queries.context.table)
    (rows,) = queries.batches
    return np.full(len(rows), np.bincount(table.class_of).argmax())


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    readout = ReadOut(name="toy", needs=frozenset({Need.TABLE}), predict=largest_class)
    monkeypatch.setitem(READ_OUTS, readout.name, readout)
    return readout.name


def test_it_is_counted_and_reported(served: TinyRun, toy: str) -> None:
    manifest, config = served.manifest, served.config
    counts = count_batches(
        load_network(read_snapshot(served.run.snapshots / step_name(5))),
        SampleIndex(manifest, "test"),
        evaluation_batches(manifest.split("test"), 5),
        tasks=resolve_tasks(config, manifest),
        tables=store.load(served.run.tables, 5),
        config=config.evaluation,
        class_counts={COLUMN: manifest.class_counts("train", COLUMN)},
    )
    assert counts[COLUMN, toy].per_class_recall.tolist() == [1, 0, 0]
    summary = summarise(counts, step=5, table_version=5, classes={})
    assert toy in evaluation_table(summary, manifest, config).splitlines()[0].split()
    report = {**summary, "readout": toy, "images_seen": 1, "train_seconds": 1.0}
    table = comparison_table({"mine": report}, manifest, config)
    assert toy in table.splitlines()[0].split()
    assert f"mine ({toy})" in table


def test_it_classifies(
    served: TinyRun, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        classify.main(["--help"])
    assert f" {toy}," in " ".join(capsys.readouterr().out.split())
    index = SampleIndex(served.manifest, "test")
    (tmp_path / "new.png").write_bytes(index.read(int(index.ids[0])))
    command = ["--config", str(served.config_file), "--readout", toy, str(tmp_path / "new.png")]
    assert classify.main(command) == 0
    (line,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert line["class"] == "a"
