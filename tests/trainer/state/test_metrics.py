"""Scalars must be readable by TensorBoard and as JSON lines, also after a kill and a resume."""

import json
import threading
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.run.folder import RunFolder
from trainer.state import metrics
from trainer.state.metrics import MetricWriter, read_metrics


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def record(run, steps, *, purge_step=None, factor=1.0):
    run.path.mkdir(exist_ok=True)
    writer = MetricWriter(run, purge_step=purge_step)
    for step in steps:
        writer.write(step, {"train/loss": factor * step, "train/rate": 0.5})
    writer.close()


def board(run):
    """step -> value of train/loss, as TensorBoard shows it."""
    events = EventAccumulator(str(run.tensorboard), purge_orphaned_data=True)
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss", "train/rate"]
    return {event.step: event.value for event in events.Scalars("train/loss")}


def lines(run):
    return [(row["step"], row["value"]) for row in read_metrics(run.metrics, ["train/loss"])]


def test_tensorboard_and_json_hold_the_same_scalars(run):
    record(run, [1, 2, 3])
    assert board(run) == {1: 1.0, 2: 2.0, 3: 3.0}
    assert lines(run) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_each_line_says_step_name_value_and_time(run):
    record(run, [7])
    first, second = map(json.loads, run.metrics.read_text().splitlines())
    assert first.keys() == {"step", "name", "value", "time"}
    assert (first["step"], first["name"], first["value"]) == (7, "train/loss", 7.0)
    assert second["name"] == "train/rate"
    assert first["time"] == second["time"] > 1.7e9


def test_what_is_written_can_be_read_before_the_end(run):
    run.path.mkdir()
    writer = MetricWriter(run)
    writer.write(1, {"train/loss": 4.0})
    assert lines(run) == [(1, 4.0)]
    writer.close()


def test_going_on_drops_what_lies_beyond_the_checkpoint(run):
    record(run, [1, 2, 3, 4])
    time.sleep(1)  # TensorBoard orders files by the second; no training is resumed sooner
    record(run, [3, 4, 5], purge_step=2, factor=10.0)
    expected = {1: 1.0, 2: 2.0, 3: 30.0, 4: 40.0, 5: 50.0}
    assert lines(run) == list(expected.items())
    assert board(run) == expected


def test_a_writer_without_a_purge_appends(run):
    record(run, [1])
    record(run, [2])
    assert lines(run) == [(1, 1.0), (2, 2.0)]


def test_a_last_line_cut_off_by_a_kill_is_left_out_and_repaired(run):
    record(run, [1, 2])
    text = run.metrics.read_text()
    run.metrics.write_text(text + '{"step": 3, "name": "train/lo')
    assert lines(run) == [(1, 1.0), (2, 2.0)]
    record(run, [3], purge_step=2)
    assert lines(run) == [(1, 1.0), (2, 2.0), (3, 3.0)]
    for line in run.metrics.read_text().splitlines():
        json.loads(line)


def test_names_choose_rows(run):
    record(run, [1, 2])
    assert {row["name"] for row in read_metrics(run.metrics)} == {"train/loss", "train/rate"}
    assert len(read_metrics(run.metrics, ["train/rate"])) == 2
    assert read_metrics(run.metrics, []) == []


def test_a_part_writes_beside_the_trainer(run):
    record(run, [1, 2])
    writer = MetricWriter(run, part="service")
    writer.write(9, {"service/x": 3.0})
    writer.close()
    assert lines(run) == [(1, 1.0), (2, 2.0)]
    (row,) = read_metrics(run.metrics_of("service"))
    assert (row["step"], row["value"]) == (9, 3.0)
    assert board(run) == {1: 1.0, 2: 2.0}
    events = EventAccumulator(str(run.tensorboard / "service"))
    events.Reload()
    assert events.Tags()["scalars"] == ["service/x"]


def test_a_line_cut_off_does_not_spoil_the_next(run):
    record(run, [1])
    run.metrics.write_text(run.metrics.read_text() + '{"step": 3, "name": "train/lo')
    record(run, [4])
    assert lines(run) == [(1, 1.0), (4, 4.0)]


def test_errors_of_other_threads_are_still_shown(monkeypatch):
    """Only those of TensorBoard's own thread are left to the writer."""
    shown = []
    monkeypatch.setattr(metrics, "_show", shown.append)
    monkeypatch.setattr(threading, "excepthook", metrics._leave_to_writer)
    for module in ("tensorboard.summary.writer.event_file_writer", "trainer.runtime.rank_watch"):
        kind = type("Failing", (threading.Thread,), {"__module__": module, "run": fail})
        thread = kind()
        thread.start()
        thread.join()
    (error,) = shown
    assert error.thread is thread


def fail(thread):
    raise OSError("no such device")
