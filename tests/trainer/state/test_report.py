"""The report of a finished training."""

from importlib.metadata import version

from data_shards.atomic import read_json
from trainer.config.builder import build_config
from trainer.run.folder import RunFolder
from trainer.runtime.table_feed import FeedState
from trainer.state.report import stall_warning, write_report

FEED = FeedState(version=20, switches=[[0, 0], [13, 10], [20, 20]], stall_seconds=2.0)
CONFIG = build_config(
    {
        "run": {"seed": 5},
        "sampler": {"micro_batches": 2, "micro_batch_size": 15, "images_per_cluster": 3},
        "train": {"steps": 20},
    }
)


def written(tmp_path, *, evaluation, feed=FEED):
    run = RunFolder(tmp_path)
    write_report(run, CONFIG, evaluation=evaluation, feed=feed, train_seconds=6.0, world_size=2)
    return read_json(run.report)


def test_a_report_says_how_good_how_fast_and_with_which_tables(tmp_path):
    evaluation = {
        "balanced_accuracy": {"ncm": 0.5},
        "per_class_recall": {"ncm": [0.5, None]},
        "num_images": 8,
    }
    report = written(tmp_path, evaluation=evaluation)
    versions = report.pop("versions")
    assert versions["torch"] == version("torch")
    assert {"python", "deepspeed", "numpy"} <= versions.keys()
    assert report == {
        **evaluation,
        "loss": "clmle",
        "readout": "blend",
        "sampling": "cluster",
        "steps": 20,
        "images_seen": 600,
        "images_per_second": 100.0,
        "train_seconds": 6.0,
        "tables_published": 3,
        "table_switches": [[0, 0], [13, 10], [20, 20]],
        "refresh_stall_seconds": 2.0,
        "refresh_stall_fraction": 0.25,
        "world_size": 2,
        "seed": 5,
    }


def test_a_training_that_waited_for_long_says_what_to_raise():
    def warning(stall, train):
        return stall_warning(CONFIG, FeedState(stall_seconds=stall), train)

    assert warning(59, 100) is None
    assert warning(99, 1000) is None
    said = warning(250, 750)
    assert "training waited 250 s (25%) for tables" in said
    assert "tables: raise refresh.lag (now 10, at most refresh.every = 100), or give" in said
    alike = build_config({"refresh": {"every": 10, "lag": 10}})
    assert "tables: give the" in stall_warning(alike, FeedState(stall_seconds=250), 750)


def test_without_a_test_split_the_accuracies_are_empty(tmp_path):
    report = written(tmp_path, evaluation={}, feed=FeedState())
    assert report["balanced_accuracy"] == {}
    assert report["per_class_recall"] == {}
    assert report["tables_published"] == 0
    assert report["refresh_stall_fraction"] == 0.0
