"""A checkpoint counts when its manifest is there; it goes on only with what it fits."""

import datetime
import json
import os
import re
import shutil
import time
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from data_shards.errors import ConfigError
from tests.helpers.ranks import run_ranks
from tests.helpers.training import NETWORK
from trainer.config.builder import build_config
from trainer.errors import TrainingError
from trainer.run.folder import RunFolder, checkpoint_steps, step_name
from trainer.run.start import find_checkpoint
from trainer.runtime.table_feed import FeedState
from trainer.runtime.world import World
from trainer.state import checkpoint
from trainer.state.checkpoint import LoopState

CONFIG = build_config({"data": {"shards": "faces"}})
STATE = LoopState(
    step=20,
    feed=FeedState(version=8, requested={"16": "abc"}, switches=[[0, 0], [10, 8]]),
    train_seconds=1.5,
    network=NETWORK,
    data_checksum="of the data",
    world_size=1,
    zero_stage=0,
    optimizer="sgd",
)


class FakeEngine:
    """Writes two files a checkpoint, as DeepSpeed writes one a rank and more."""

    def __init__(self):
        self.world = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
        self.loaded = []

    def save(self, folder, tag):
        (folder / tag).mkdir(exist_ok=True)
        for name in ("model.pt", "optimizer.pt"):
            (folder / tag / name).write_text(f"{name} of {tag}")

    def load(self, folder, tag):
        self.loaded.append(folder / tag)


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def engine():
    return FakeEngine()


def save(run, *steps, keep=10):
    for step in steps:
        checkpoint.save(FakeEngine(), run, replace(STATE, step=step), keep=keep)
    return run.checkpoints / step_name(steps[-1])


def load(engine, path, *, config=CONFIG, network=NETWORK, data_checksum="of the data"):
    return checkpoint.load(engine, path, config, network=network, data_checksum=data_checksum)


def test_the_state_comes_back_as_it_was(run, engine):
    path = save(run, 20)
    assert load(engine, path) == STATE
    assert engine.loaded == [path]


def test_running_statistics_come_back_and_are_checked(run, engine):
    means = {"shape": torch.rand(5, 4), "parity": torch.rand(2, 4)}
    checkpoint.save(engine, run, STATE, keep=2, statistics=means)
    path = run.checkpoints / "step_000020"
    load(engine, path)
    loaded = checkpoint.load_statistics(path, engine.world)
    assert set(loaded) == set(means)
    assert all(torch.equal(loaded[task], rows) for task, rows in means.items())
    (path / "running_statistics.safetensors").unlink()
    with pytest.raises(TrainingError, match="is damaged"):
        checkpoint.find_intact("auto", run)
    assert checkpoint.load_statistics(save(run, 30), engine.world) == {}


def test_nothing_is_found_before_the_first(run):
    assert checkpoint_steps(run) == []
    assert find_checkpoint("auto", run) is None
    assert find_checkpoint("none", run) is None


def test_auto_is_the_newest_complete_one(run):
    save(run, 5, 20, 1000)
    assert find_checkpoint("auto", run) == run.checkpoints / "step_001000"
    assert find_checkpoint("none", run) is None
    (run.checkpoints / "step_001000" / "manifest.json").unlink()
    assert find_checkpoint("auto", run) == run.checkpoints / "step_000020"


def test_a_path_names_any_checkpoint(run):
    save(run, 10, 20)
    assert (
        find_checkpoint(str(run.checkpoints / "step_000010"), run)
        == run.checkpoints / "step_000010"
    )


def test_another_runs_checkpoint_does_not_undo_what_this_run_has_done(run, tmp_path):
    former = RunFolder(tmp_path / "former")
    path = str(save(former, 10))
    assert find_checkpoint(path, run) == former.checkpoints / "step_000010"
    save(run, 20)
    with pytest.raises(ConfigError, match="has its own checkpoints, up to step 20; --resume auto"):
        find_checkpoint(path, run)


@pytest.mark.parametrize("name", ["step_000030", "", "../elsewhere"])
def test_a_path_without_a_complete_checkpoint_is_an_error(run, name):
    save(run, 20)
    (run.checkpoints / "step_000030").mkdir()
    with pytest.raises(ConfigError, match="no complete checkpoint there.* such as .*/step_000020"):
        find_checkpoint(str(run.checkpoints / name), run)


def test_only_so_many_are_kept(run):
    save(run, 5, 10, 15, 20, keep=2)
    assert checkpoint_steps(run) == [15, 20]
    assert sorted(os.listdir(run.checkpoints)) == ["step_000015", "step_000020"]


def test_after_going_on_from_an_older_one_the_newer_ones_are_gone(run):
    save(run, 10, 20, 30)
    save(run, 15, keep=1)
    assert checkpoint_steps(run) == [15]
    assert find_checkpoint("auto", run) == run.checkpoints / "step_000015"


def test_going_on_from_an_older_one_forgets_the_newer_ones_before_the_next_save(run):
    save(run, 10, 20, 30)
    checkpoint.remove_later(run, 20)
    assert checkpoint_steps(run) == [10, 20]
    assert find_checkpoint("auto", run) == run.checkpoints / "step_000020"
    checkpoint.remove_later(RunFolder(run.path / "none"), 0)


def test_what_a_killed_writer_left_goes_with_the_next_save(run):
    save(run, 10, 20)
    (run.checkpoints / "step_000010" / "manifest.json").unlink()
    (run.checkpoints / "step_000015").mkdir()
    (run.checkpoints / "step_000015" / "weights").write_text("half")
    save(run, 30)
    assert sorted(os.listdir(run.checkpoints)) == ["step_000020", "step_000030"]


def test_others_may_read_a_checkpoint(run):
    statistics = {"digit": torch.zeros(2, 3)}
    checkpoint.save(FakeEngine(), run, STATE, keep=1, statistics=statistics)
    files = [path for path in run.checkpoints.rglob("*") if path.is_file()]
    modes = {path.name: path.stat().st_mode & 0o044 for path in files}
    umask = os.umask(0)
    os.umask(umask)
    assert set(modes.values()) == {0o044 & ~umask}
    assert len(modes) >= 2


def test_saving_a_step_again_replaces_it(run, engine):
    save(run, 20)
    path = save(run, 20)
    assert load(engine, path) == STATE


def test_while_it_is_written_a_checkpoint_does_not_count(run):
    save(run, 20)

    class Killed(FakeEngine):
        def save(self, folder, tag):
            super().save(folder, tag)
            assert checkpoint_steps(run) == [], "neither the new one nor what it replaces"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(Killed(), run, STATE, keep=2)
    assert find_checkpoint("auto", run) is None


def save_slowly(rank, num_ranks, run):
    """On a disk that takes longer to read a checkpoint than ranks wait for each other."""
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=2))
    engine, sha256_of = FakeEngine(), checkpoint.sha256_of
    engine.world = World.from_environment()
    checkpoint.sha256_of = lambda file: time.sleep(2) or sha256_of(file)  # of two files
    checkpoint.save(engine, run, STATE, keep=1)
    engine.world.barrier()  # the next step
    dist.destroy_process_group()


def test_a_slow_disk_does_not_make_ranks_lose_patience(run):
    run_ranks(save_slowly, 2, run, timeout=60)
    assert checkpoint.find_intact("auto", run) == run.checkpoints / "step_000020"


def as_folder(file):
    """What cannot be read, also for root."""
    file.unlink()
    file.mkdir()


def change_manifest(path, change):
    content = json.loads((path / "manifest.json").read_text()) | change
    kept = {key: value for key, value in content.items() if value is not None}
    (path / "manifest.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "optimizer.pt").unlink(), r"optimizer\.pt is missing or differs"),
        (lambda path: (path / "optimizer.pt").write_text("other"), r"optimizer\.pt is missing or"),
        (lambda path: change_manifest(path, {"state": {}}), "is no checkpoint's manifest"),
        (lambda path: change_manifest(path, {"state": None}), "is no checkpoint's manifest"),
        (lambda path: change_manifest(path, {"files": None}), "is no checkpoint's manifest"),
        (lambda path: change_manifest(path, {"state": {"step": 1}}), "is no checkpoint's manifest"),
        (lambda path: as_folder(path / "optimizer.pt"), r"optimizer\.pt is missing or differs"),
        (lambda path: change_manifest(path, {"files": ["a"]}), "is no checkpoint's manifest"),
        (lambda path: (path / "manifest.json").write_text("{"), "is no checkpoint's manifest"),
    ],
)
def test_a_damaged_one_is_passed_over_for_an_older_one(run, caplog, damage, message):
    assert checkpoint.find_intact("auto", run) is None
    older, newest = save(run, 10), save(run, 20)
    assert checkpoint.find_intact("auto", run) == newest
    damage(newest)
    assert checkpoint.find_intact("none", run) is None
    assert caplog.text == ""
    assert checkpoint.find_intact("auto", run) == older
    assert re.search(f"step_000020.*{message}", caplog.text)
    assert checkpoint.find_intact(str(older), run) == older
    with pytest.raises(
        TrainingError, match=f"{message}.*; --resume auto .the default. skips damaged"
    ):
        checkpoint.find_intact(str(newest), run)
    damage(older)
    with pytest.raises(
        TrainingError, match=f"step_000010.*{message}.*no older one to continue from"
    ):
        checkpoint.find_intact("auto", run)


def test_an_old_one_that_cannot_be_removed_does_no_harm(run, monkeypatch):
    def busy(folder, ignore_errors=False):
        if not ignore_errors:
            raise OSError(39, "Directory not empty")

    save(run, 10)
    monkeypatch.setattr(shutil, "rmtree", busy)
    save(run, 20, keep=1)
    assert checkpoint_steps(run) == [20]


def test_another_network_is_refused_with_the_differences(run, engine):
    path = save(run, 20)
    other = replace(NETWORK, embedding_dim=16, num_classes={"shape": 5})
    with pytest.raises(ConfigError) as caught:
        load(engine, path, network=other)
    message = str(caught.value)
    assert "embedding_dim 8 there, 16 here" in message
    assert "num_classes {'shape': 4} there, {'shape': 5} here" in message
    assert "input_size" not in message
    assert engine.loaded == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": {"steps": 19}}, "is of step 20, after train.steps 19"),
        ({"optim": {"name": "adamw"}}, "state of optim.name sgd, this run has adamw"),
    ],
)
def test_another_course_of_training_is_refused(run, engine, settings, message):
    config = build_config({"data": {"shards": "faces"}, "recipe": "none", **settings})
    with pytest.raises(ConfigError, match=message):
        load(engine, save(run, 20), config=config)
    assert engine.loaded == []


def test_other_shards_are_refused(run, engine):
    with pytest.raises(ConfigError, match=r"trained on other shards than faces.*data\.shards"):
        load(engine, save(run, 20), data_checksum="of other data")


def with_zero(stage):
    return build_config({"data": {"shards": "faces"}, "train": {"zero_stage": stage}})


@pytest.mark.parametrize(
    ("ranks", "stage", "stage_now", "fits"),
    [
        (1, 0, 0, True),
        (2, 0, 0, True),
        (1, 2, 2, True),
        (2, 2, 2, False),
        (1, 1, 2, False),
        (1, 0, 1, False),
    ],
)
def test_only_stage_0_can_change_its_ranks(run, engine, ranks, stage, stage_now, fits):
    state = replace(STATE, world_size=ranks, zero_stage=stage)
    checkpoint.save(FakeEngine(), run, state, keep=2)
    path = run.checkpoints / "step_000020"
    if fits:
        assert load(engine, path, config=with_zero(stage_now)) == state
    else:
        with pytest.raises(ConfigError, match=f"{ranks} ranks with ZeRO stage {stage}, this run"):
            load(engine, path, config=with_zero(stage_now))
        assert engine.loaded == []
