"""A run's folder belongs to one run."""

from pathlib import Path

import pytest

from trainer.config_file import build_config, load_config
from trainer.errors import ConfigError
from trainer.run_folder import RunFolder, step_name, step_of


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "runs" / "mine")


def config(**sections):
    return build_config(sections)


def claim(run, *, fresh=False, **sections):
    run.claim(config(**sections), fresh=fresh)


@pytest.mark.parametrize("step", [0, 200, 999_999, 1_234_567])
def test_names_of_steps_read_back(step):
    assert step_of(step_name(step)) == step


def test_names_of_steps_sort_as_steps_do():
    assert step_name(200) == "step_000200"
    assert step_name(200) < step_name(1000)


@pytest.mark.parametrize(
    "name", [".tmp-12-ab-step_000200", "step_", "step", "step_x", "epoch_000200", "000200"]
)
def test_other_names_are_of_no_step(name):
    assert step_of(name) is None


def test_asking_for_paths_creates_nothing(run):
    names = ["config", "snapshots", "embeddings", "tables", "checkpoints", "tensorboard"]
    names += ["metrics", "evaluation", "report", "logs"]
    paths = {getattr(run, name) for name in names}
    assert len(paths) == len(names)
    assert all(path.parent == run.path for path in paths)
    assert not run.path.exists()


def test_claiming_writes_the_resolved_configuration(run):
    claim(run, train={"steps": 7})
    assert load_config(run.config) == config(train={"steps": 7})


def test_the_parts_of_a_run_may_all_claim_its_folder(run):
    claim(run)
    claim(run)
    claim(run, fresh=True)


@pytest.mark.parametrize(
    "sections",
    [
        {"launch": {"num_ranks": 1}},
        {"checkpoint": {"every": 5, "keep": 1}},
        {"train": {"log_every": 3}},
        {"data": {"reader_threads": 0}},
        {"refresh": {"on_late": "continue"}},
        {"baselines": {"softmax": {"loss.name": "softmax"}}},
    ],
)
def test_going_on_may_change_what_does_not_change_the_results(run, sections):
    claim(run)
    claim(run, **sections)
    assert load_config(run.config) == config(**sections)


def test_another_run_is_refused_and_left_alone(run):
    claim(run)
    before = run.config.read_bytes()
    with pytest.raises(ConfigError) as caught:
        claim(run, train={"steps": 7}, model={"embedding_dim": 8})
    message = str(caught.value)
    assert "already holds another run" in message
    assert "model.embedding_dim (32 there, 8 here)" in message
    assert "train.steps (600 there, 7 here)" in message
    assert "set run.folder" in message
    assert run.config.read_bytes() == before


def test_tasks_belong_to_what_makes_a_run(run):
    claim(run, tasks=[{"name": "a", "label": "x"}])
    with pytest.raises(ConfigError, match="tasks"):
        claim(run, tasks=[{"name": "a", "label": "y"}])


def test_a_fresh_start_wants_no_checkpoints(run):
    claim(run)
    run.checkpoints.mkdir()
    claim(run)
    with pytest.raises(ConfigError, match="already holds checkpoints.*--resume auto"):
        claim(run, fresh=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    run = RunFolder(tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match=r"cannot create the run folder .*file/run.*run\.folder"):
        claim(run)


def test_a_folder_that_cannot_be_written_is_named(run, monkeypatch):
    run.path.mkdir(parents=True)
    # Root may write everywhere, so a mode would not do.
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != run.path)
    with pytest.raises(ConfigError, match=r"cannot write to the run folder .*set run\.folder"):
        claim(run)
    assert not run.config.exists()
